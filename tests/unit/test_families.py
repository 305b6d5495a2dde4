"""Each mechanism's family does all that the row declares, and the secret of a private key is had in one way."""

import ast
from pathlib import Path

import pytest

from p11tpm.ck import CKA, CKF, CKK, CKM, CKR
from p11tpm.error import Error
from p11tpm.family.family import family, of_keys
from p11tpm.given import Given
from p11tpm.mechanism import MECHANISMS

PACKAGE = Path(__file__).parents[2] / "p11tpm"
ABILITIES = {
    CKF.SIGN: "signer",
    CKF.SIGN_RECOVER: "signer",
    CKF.VERIFY: "verifier",
    CKF.VERIFY_RECOVER: "recover",
    CKF.ENCRYPT: "cipher",
    CKF.DECRYPT: "cipher",
    CKF.WRAP: "cipher",
    CKF.UNWRAP: "cipher",
    CKF.DERIVE: "derive",
    CKF.GENERATE: "generate",
    CKF.GENERATE_KEY_PAIR: "pair",
}
OF_PAIRS = {"public_attributes", "private_key", "private_numbers", "pkcs8", "place"}
ROWS = [row for row in MECHANISMS.values() if row.does != CKF.DIGEST]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_family_does_what_its_rows_declare(row):
    wanted = {ability for flag, ability in ABILITIES.items() if row.does & flag}
    assert wanted
    for ability in wanted | (OF_PAIRS if "pair" in wanted else set()):
        assert callable(getattr(family(row.family), ability))


@pytest.mark.parametrize(("name", "ability"), [("hmac", "pair"), ("block", "recover"), ("ec", "cipher"), ("ec", "any")])
def test_what_a_family_cannot_do_is_an_invalid_mechanism(name, ability):
    with pytest.raises(Error, match=ability) as caught:
        getattr(family(name), ability)
    assert caught.value.rv == CKR.MECHANISM_INVALID


def test_each_file_of_a_family_is_named_by_a_row():
    files = {path.stem for path in (PACKAGE / "family").glob("*.py") if "\nFAMILY = " in path.read_text()}
    named = {row.family for row in ROWS}
    assert files == named | {family(name).later for name in named} - {""}


def test_keys_of_pairs_have_a_family():
    assert of_keys(CKK.RSA) is family("rsa")
    assert of_keys(CKK.DH) is family("dh")
    assert of_keys(CKK.AES) is of_keys(None) is None


class Damaged:
    """A public key on edwards25519 whose point another program has cut in the store."""

    def get(self, type_):
        return {CKA.EC_PARAMS: bytes.fromhex("06032b6570"), CKA.EC_POINT: bytes(5)}[type_]


def test_a_damaged_public_key_is_not_one_for_the_mechanism():
    params = MECHANISMS[CKM.EDDSA].params(Given(CKM.EDDSA))
    with pytest.raises(Error) as caught:
        family("edwards").verifier(None, Damaged(), MECHANISMS[CKM.EDDSA], params)
    assert caught.value.rv == CKR.KEY_TYPE_INCONSISTENT


def test_the_secret_of_a_private_key_is_had_for_one_use_or_to_leave():
    """Object.hidden is what all ways lead to: to `TokenTpm.secret_of`, which asks for the PIN, and to copies."""
    callers = {
        str(path.relative_to(PACKAGE)): count
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "tpm"  # where commands have a `hidden` of their own
        if (count := sum(_calls_hidden(node) for node in ast.walk(ast.parse(path.read_text()))))
    }
    assert callers == {"core/object.py": 3, "core/token_tpm.py": 1, "keys/copy.py": 1}


def _calls_hidden(node):
    return isinstance(node, ast.Attribute) and node.attr == "hidden"
