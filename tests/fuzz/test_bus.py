"""A whole life of a token on a bus that is listened to: no secret goes over it, in either direction.

Every piece of every secret is looked for at every place, so half a secret would be found too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptoki import SO, USER, Cryptoki
from keys import ec_pair, rsa_pair

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKU
from p11tpm.core.pin import auth_value
from p11tpm.core.secret import Secret
from p11tpm.store import Store
from p11tpm.tpm import Blob, Key, Srk, Tpm, command, importing, loaded, template
from p11tpm.tpm.salt import make_salt
from p11tpm.tpm.wire import Wire

if TYPE_CHECKING:
    import rig

PIECE = 8  # bytes: of a secret's pieces; a PIN is shorter and is looked for whole
SO_PIN, NEW_SO_PIN = b"so-secret-1", b"so-secret-2"
PINS = [b"user-pin-1", b"user-pin-2", b"user-pin-3"]
ENCRYPTING = [one for one in vars(command).values() if isinstance(one, command.Command) and (one.hides or one.hidden)]


class Life:
    """What a token goes through, and what it knew that nobody else may know: `secrets`, by what they are."""

    def __init__(self, run: Cryptoki, proxy: rig.CountingProxy) -> None:
        self.run = run
        self.proxy = proxy
        self.secrets: dict[str, bytes] = {f"PIN {number}": pin for number, pin in enumerate(PINS)}
        self.secrets |= {"SO PIN": SO_PIN, "new SO PIN": NEW_SO_PIN}
        self.slot = run.slots()[0]
        self.session = 0

    def live(self) -> None:
        run = self.run
        run.init_token(self.slot, SO_PIN, "token")
        self.session = run.open(self.slot)
        self._learn_auths(SO_PIN, NEW_SO_PIN, *PINS)
        run.login(self.session, SO, SO_PIN)
        run.init_pin(self.session, PINS[0])
        run.logout(self.session)
        run.login(self.session, USER, PINS[0])
        _, signer = ec_pair(run, self.session)
        _, decrypter = rsa_pair(run, self.session)
        self._import_keys()
        self._copy(signer)
        self._secret_keys()
        data = {CKA.CLASS: (0).to_bytes(8, "little"), CKA.TOKEN: TRUE, CKA.PRIVATE: TRUE, CKA.MODIFIABLE: FALSE}
        self.secrets["private data"] = b"a note that only its owner reads"
        run.create(self.session, {**data, CKA.VALUE: self.secrets["private data"]})
        run.sign(self.session, signer, CKM.ECDSA, os.urandom(32))
        run.sign(self.session, decrypter, CKM.SHA256_RSA_PKCS, b"text")
        self.secrets["random"] = run.random(self.session, 48)
        run.set_pin(self.session, PINS[0], PINS[1])
        run.logout(self.session)
        run.login(self.session, USER, PINS[1])
        run.sign(self.session, self._signer(), CKM.ECDSA, os.urandom(32))
        run.logout(self.session)
        run.login(self.session, SO, SO_PIN)
        run.set_pin(self.session, SO_PIN, NEW_SO_PIN)
        run.init_pin(self.session, PINS[2])
        run.logout(self.session)
        run.login(self.session, USER, PINS[2])
        run.sign(self.session, self._signer(), CKM.ECDSA, os.urandom(32))
        run.close(self.session)
        self._use_keys()

    def _signer(self) -> int:
        """Find the key that was made first; handles of private keys end with each login."""
        return self.run.find(self.session, {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.KEY_TYPE: ulong(CKK.EC)})[0]

    def _import_keys(self) -> None:
        numbers = rsa.generate_private_key(65537, 2048).private_numbers()
        scalar = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
        self.secrets["prime"], self.secrets["other prime"] = (
            one.to_bytes(128, "big") for one in (numbers.p, numbers.q)
        )
        self.secrets["private exponent"] = numbers.d.to_bytes(256, "big").lstrip(b"\0")
        self.secrets["scalar"] = scalar.to_bytes(32, "big")
        key = {CKA.CLASS: ulong(CKO.PRIVATE_KEY), CKA.TOKEN: TRUE, CKA.LABEL: b"imported "}
        parts = {CKA.MODULUS: numbers.public_numbers.n.to_bytes(256, "big"), CKA.PRIME_1: self.secrets["prime"]}
        parts[CKA.PRIVATE_EXPONENT] = self.secrets["private exponent"]
        self.run.create(self.session, {**key, CKA.KEY_TYPE: ulong(CKK.RSA), **parts})
        curve = {CKA.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107"), CKA.VALUE: self.secrets["scalar"]}
        self.run.create(self.session, {**key, CKA.KEY_TYPE: ulong(CKK.EC), **curve})

    def _secret_keys(self) -> None:
        """Use AES and HMAC keys in the TPM that came from outside, with data which are secret as well."""
        run, session = self.run, self.session
        secrets = {"AES key": 32, "AES data": 1500, "HMAC key": 32, "HMAC data": 1000, "longer HMAC data": 2500}
        self.secrets |= {name: os.urandom(length) for name, length in secrets.items()}
        key = {CKA.CLASS: ulong(CKO.SECRET_KEY), CKA.TOKEN: TRUE}
        aes = {**key, CKA.KEY_TYPE: ulong(CKK.AES), CKA.VALUE: self.secrets["AES key"], CKA.LABEL: b"AES"}
        cipher = run.create(session, aes)
        run.C_EncryptInit(session, run.mechanism(CKM.AES_CTR, ulong(128) + os.urandom(16)), cipher)
        data = self.secrets["AES data"]
        run.C_Encrypt(
            session, data, len(data), run.ffi.new("CK_BYTE[]", len(data)), run.ffi.new("CK_ULONG *", len(data))
        )
        of_hmac = {CKA.KEY_TYPE: ulong(CKK.SHA256_HMAC), CKA.VALUE: self.secrets["HMAC key"], CKA.LABEL: b"HMAC"}
        signer = run.create(session, {**key, **of_hmac})
        for name in ("HMAC data", "longer HMAC data"):
            self.secrets[f"code of {name}"] = run.sign(session, signer, CKM.SHA256_HMAC, self.secrets[name])

    def _copy(self, handle: int) -> None:
        template, count = self.run.template({CKA.LABEL: b"copied "})
        self.run.C_CopyObject(self.session, handle, template, count, self.run.ulong())

    def _row(self):
        return Store(os.environ["P11TPM_STORE"]).tokens()[0]

    def _learn_auths(self, so: bytes, new_so: bytes, *pins: bytes) -> None:
        row = self._row()
        for number, pin in enumerate(pins):
            self.secrets[f"K(PIN {number})"] = auth_value(row, CKU.USER, pin)
        self.secrets["K(SO PIN)"] = auth_value(row, CKU.SO, so)
        self.secrets["K(new SO PIN)"] = auth_value(row, CKU.SO, new_so)

    def _use_keys(self) -> None:
        """Decrypt and agree on keys as C_Decrypt and C_DeriveKey do it, and learn what the TPM seals."""
        store, row = Store(os.environ["P11TPM_STORE"]), self._row()
        tpm = Tpm(self.proxy.tcti)
        tpm.bind(Srk(row.srk_handle, row.srk_public))
        sealed = tpm.unseal(Blob(row.user_public, row.user_private), self.secrets["K(PIN 2)"])
        self.secrets["token secret"] = sealed
        so = Blob(row.so_public, row.so_private)
        self.secrets["SO's object"] = tpm.unseal(so, self.secrets["K(new SO PIN)"])
        records = [store.record(id_) for id_ in store.find(row.id, {}, {})]
        for record in (record for record in records if record.tpm_private):
            auth = Secret(sealed).auth(record.uuid)
            key = Key(record.uuid, record.tpm_public, record.tpm_private, auth)
            label = record.attributes[CKA.LABEL].decode()
            origin = label if label.endswith(" ") else ""
            if label in {"AES", "HMAC"}:
                self.secrets[f"auth of the {label} key"] = auth
            elif template.is_rsa(record.tpm_public):
                self.secrets[f"auth of the {origin}RSA key"] = auth
                self.secrets[f"{origin}decrypted block"] = tpm.rsa(key, bytes(1) + os.urandom(255))
            else:
                self.secrets[f"auth of the {origin}EC key"] = auth
                point = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
                self.secrets[f"{origin}agreed key"] = tpm.ecdh(key, (point.x, point.y))
        tpm.release()

    def seen(self) -> dict[str, set[str]]:
        """Return which secrets were on the bus, and in which direction."""
        found: dict[str, set[str]] = {}
        for name, secret in self.secrets.items():
            size = min(PIECE, len(secret))
            pieces = {secret[at : at + size] for at in range(len(secret) - size + 1)}
            for entry in self.proxy.commands:
                for direction, message in (("to the TPM", entry.request), ("from the TPM", entry.response)):
                    if any(message[at : at + size] in pieces for at in range(len(message) - size + 1)):
                        found.setdefault(name, set()).add(direction)
        return found


@pytest.fixture
def life(settings, proxy, module_path):
    settings.setenv("P11TPM_TCTI", proxy.tcti)
    run = Cryptoki(module_path)
    run.initialize()
    yield Life(run, proxy)
    run.finalize()


COMMANDS = {
    *("CreatePrimary", "EvictControl", "Create", "Load", "Unseal", "Sign", "RSA_Decrypt", "ECDH_ZGen", "GetRandom"),
    *("StartAuthSession", "FlushContext", "PolicyAuthValue", "PolicyCommandCode", "PolicyOR", "PolicySecret"),
    *("ObjectChangeAuth", "Import", "EncryptDecrypt2", "HMAC", "HMAC_Start", "SequenceUpdate", "SequenceComplete"),
}


@pytest.fixture
def uncover(monkeypatch):
    """`uncover(command)`: it is sent without parameter encryption, and no session is there for that alone."""
    authorised = Wire.authorised

    def without(self, what, session, handles, auth, parameters, cipher=None):
        encrypts = what.hides or what.hidden
        if not handles and not encrypts:
            return self.plain(what, parameters=parameters)
        return authorised(self, what, session, handles, auth, parameters, cipher if encrypts else None)

    def uncover(one: command.Command) -> None:
        monkeypatch.setattr(one, "hides", False)
        monkeypatch.setattr(one, "hidden", False)

    monkeypatch.setattr(Wire, "authorised", without)
    return uncover


@pytest.fixture
def unwrap(monkeypatch):
    """`unwrap()`: keys are imported without a wrapper."""
    return lambda: monkeypatch.setattr(importing, "wrap", lambda _srk, _name, sensitive: (sensitive, b""))


def test_no_secret_is_on_the_bus(life, monkeypatch):
    salts: list[bytes] = []

    def remembered(public: bytes, *label: bytes) -> tuple[bytes, bytes]:
        salt, encrypted = make_salt(public, *label)
        salts.append(salt)
        return salt, encrypted

    for module in (loaded, importing):
        monkeypatch.setattr(module, "make_salt", remembered)
    life.live()
    assert set(life.proxy.names) >= COMMANDS
    assert len(life.secrets) == 37
    assert len(salts) >= 10
    life.secrets |= {f"salt {number}": salt for number, salt in enumerate(salts)}
    assert min(len(secret) for secret in life.secrets.values()) >= PIECE
    assert life.seen() == {}


def test_without_encryption_they_would_be(life, uncover, unwrap):
    """The search finds what it looks for: a PIN never reaches the TPM, and all others that do are seen."""
    assert {one.name for one in ENCRYPTING} == {
        *("Create", "ObjectChangeAuth", "ECDH_ZGen", "RSA_Decrypt", "Unseal", "GetRandom"),
        *("EncryptDecrypt2", "HMAC", "HMAC_Start", "SequenceUpdate", "SequenceComplete"),
    }
    for one in ENCRYPTING:
        uncover(one)
    unwrap()
    life.live()
    seen = life.seen()
    never = {name for name in life.secrets if name not in seen}
    assert never == {
        *("SO PIN", "new SO PIN", *(f"PIN {number}" for number in range(3)), "private data"),
        *("other prime", "private exponent"),
    }
    assert seen["token secret"] == seen["SO's object"] == {"to the TPM", "from the TPM"}
    assert seen["random"] == seen["agreed key"] == seen["decrypted block"] == {"from the TPM"}
    assert seen["auth of the EC key"] == seen["K(PIN 1)"] == {"to the TPM"}
    for name in ("AES key", "AES data", "HMAC key", "HMAC data", "longer HMAC data"):
        assert seen[name] == {"to the TPM"}
    assert seen["code of HMAC data"] == seen["code of longer HMAC data"] == {"from the TPM"}


@pytest.mark.parametrize("one", ENCRYPTING, ids=lambda one: one.name)
def test_each_single_command_matters(life, uncover, one):
    uncover(one)
    life.live()
    assert life.seen()


def test_the_wrapper_of_an_imported_key_matters(life, unwrap):
    unwrap()
    life.live()
    imported = ("prime", "scalar", "auth of the imported RSA key", "auth of the imported EC key")
    assert life.seen() == {name: {"to the TPM"} for name in imported}
