"""Python programs with python-pkcs11 and PyKCS11, each in a process of its own."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from rig.program import said
from rig.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    import rig

PROGRAMS = {"python-pkcs11": 0, "PyKCS11": 1}  # blocks of the recipe

# with the module, the PIN and the algorithm as arguments: all of it by one library
PYTHON_PKCS11 = """
import sys
import pkcs11
from pkcs11 import Attribute, KeyType, MGF, Mechanism as M, ObjectClass

module, pin = sys.argv[1:]
token = pkcs11.lib(module).get_token(token_label="p11tpm")
PSS = (M.SHA256, MGF.SHA256, 32)
with token.open(rw=True, user_pin=pin) as session:
    public, private = session.generate_keypair(KeyType.RSA, 2048, store=True, label="rsa of python-pkcs11")
    for mechanism, more in ((M.SHA256_RSA_PKCS, None), (M.SHA256_RSA_PKCS_PSS, PSS)):
        signature = private.sign(b"data", mechanism=mechanism, mechanism_param=more)
        assert public.verify(b"data", signature, mechanism=mechanism, mechanism_param=more)
        assert not public.verify(b"date", signature, mechanism=mechanism, mechanism_param=more)
    assert private.decrypt(public.encrypt(b"hidden")) == b"hidden"
    assert private[Attribute.ALWAYS_SENSITIVE] and private[Attribute.NEVER_EXTRACTABLE] and private[Attribute.LOCAL]
    found = session.get_objects({Attribute.LABEL: "rsa of python-pkcs11"})
    assert sorted(key.object_class.name for key in found) == ["PRIVATE_KEY", "PUBLIC_KEY"]
    private.destroy()
    public.destroy()
    assert list(session.get_objects({Attribute.LABEL: "rsa of python-pkcs11"})) == []
print("good")
"""
PYKCS11 = """
import sys
from PyKCS11 import *

module, pin = sys.argv[1:]
library = PyKCS11Lib()
library.load(module)
slots = library.getSlotList(tokenPresent=True)
[slot] = [slot for slot in slots if library.getTokenInfo(slot).label.strip() == "p11tpm"]
assert "CKM_SHA256_RSA_PKCS_PSS" in library.getMechanismList(slot)
session = library.openSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION)
session.login(pin)
usual = [(CKA_TOKEN, CK_TRUE), (CKA_LABEL, "rsa of PyKCS11"), (CKA_ID, (7, 8))]
public, private = session.generateKeyPair(
    [(CKA_CLASS, CKO_PUBLIC_KEY), (CKA_VERIFY, CK_TRUE), (CKA_ENCRYPT, CK_TRUE), *usual,
     (CKA_MODULUS_BITS, 2048), (CKA_PUBLIC_EXPONENT, (1, 0, 1))],
    [(CKA_CLASS, CKO_PRIVATE_KEY), (CKA_SIGN, CK_TRUE), (CKA_DECRYPT, CK_TRUE), (CKA_PRIVATE, CK_TRUE),
     (CKA_SENSITIVE, CK_TRUE), *usual],
)
for mechanism in (
    Mechanism(CKM_SHA256_RSA_PKCS),
    RSA_PSS_Mechanism(CKM_SHA256_RSA_PKCS_PSS, CKM_SHA256, CKG_MGF1_SHA256, 32),
):
    signature = session.sign(private, b"data", mechanism)
    assert session.verify(public, b"data", signature, mechanism)
    assert not session.verify(public, b"date", signature, mechanism)
for mechanism in (Mechanism(CKM_RSA_PKCS), RSAOAEPMechanism(CKM_SHA256, CKG_MGF1_SHA256)):
    assert bytes(session.decrypt(private, session.encrypt(public, b"hidden", mechanism), mechanism)) == b"hidden"
assert bytes(session.digest(b"data", Mechanism(CKM_SHA256))).hex().startswith("3a6eb0790f39ac87")
found = session.findObjects([(CKA_LABEL, "rsa of PyKCS11")])
assert sorted(session.getAttributeValue(key, [CKA_CLASS])[0] for key in found) == [CKO_PUBLIC_KEY, CKO_PRIVATE_KEY]
assert session.getAttributeValue(private, [CKA_NEVER_EXTRACTABLE, CKA_LOCAL]) == [True, True]
for key in found:
    session.destroyObject(key)
assert session.findObjects([(CKA_LABEL, "rsa of PyKCS11")]) == []
session.logout()
session.closeSession()
library.unload()
print("good")
"""
USES = {"python-pkcs11": PYTHON_PKCS11, "PyKCS11": PYKCS11}
# the wrong PIN, twice, and the right one in the same process; each says how it went
TRIES = {
    "python-pkcs11": """
import sys
import pkcs11

module, *pins = sys.argv[1:]
token = pkcs11.lib(module).get_token(token_label="p11tpm")
for pin in pins:
    try:
        token.open(user_pin=pin).close()
        print("good")
    except pkcs11.exceptions.PKCS11Error as error:
        print(type(error).__name__)
""",
    "PyKCS11": """
import sys
from PyKCS11 import PyKCS11Error, PyKCS11Lib

module, *pins = sys.argv[1:]
library = PyKCS11Lib()
library.load(module)
session = library.openSession(library.getSlotList(tokenPresent=True)[0])
for pin in pins:
    try:
        session.login(pin)
        print("good")
    except PyKCS11Error as error:
        print({"CKR_PIN_INCORRECT": "PinIncorrect"}.get(str(error).split()[0], str(error)))
""",
}


@pytest.fixture(scope="module")
def owner(tpm: rig.Tabrmd, new_user: type[rig.User], tmp_path_factory: pytest.TempPathFactory) -> rig.User:
    user = new_user(tpm, tmp_path_factory.mktemp("user"))
    user.create_token()
    return user


def run(user: rig.User, directory: Path, program: str, *arguments: str) -> str:
    file = directory / "program.py"
    file.write_text(program)
    return said([sys.executable, "-B", file, *arguments], user.env, directory)


def test_recipe(owner: rig.User, tmp_path: Path) -> None:
    """A key that one library has made is used by the other one: each says that its signature is good, and no more."""
    recipe = Recipe.of(owner, "python")
    for block in PROGRAMS.values():
        assert run(owner, tmp_path, recipe.text(block)) == "True\n"


@pytest.mark.parametrize("library", USES)
def test_all_it_does(owner: rig.User, tmp_path: Path, library: str) -> None:
    """Generate, sign, verify, encrypt, decrypt, list and delete."""
    assert run(owner, tmp_path, USES[library], owner.module, owner.pin) == "good\n"


@pytest.mark.parametrize("library", TRIES)
def test_wrong_pin(owner: rig.User, tpm: rig.Tabrmd, tmp_path: Path, library: str) -> None:
    """It is counted once, however often the process tries it."""
    before = tpm.swtpm.lockout_counter()
    wrong = "654321"
    told = run(owner, tmp_path, TRIES[library], owner.module, wrong, wrong, owner.pin)
    assert re.findall("^PinIncorrect|^good", told, re.MULTILINE) == ["PinIncorrect", "PinIncorrect", "good"]
    assert tpm.swtpm.lockout_counter() == before + 1
