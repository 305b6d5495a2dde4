"""Mechanisms: each one declared once; lists, CK_MECHANISM_INFO and operations are derived from the rows.

Source: PKCS#11 Current Mechanisms 3.0, clauses 2.1 (RSA) and 2.3 (EC).
"""

from __future__ import annotations

from p11tpm.ck import CKF, CKG, CKK, CKM, CKR
from p11tpm.error import Error

# What is done to the digest (or to the data, without a digest) before the TPM sees it.
PKCS1 = "pkcs1"
PSS = "pss"
ECDSA = "ecdsa"

CURVES = {  # name: (bits, DER of the named curve's object identifier, RFC 5480 clause 2.1.1.1)
    "p256": (256, bytes.fromhex("06082a8648ce3d030107")),
    "p384": (384, bytes.fromhex("06052b81040022")),
    "p521": (521, bytes.fromhex("06052b81040023")),
}
RSA_SIZES = (2048, 3072, 4096)

HASHES = {  # CKM of the hash: its name
    CKM.SHA_1: "sha1",
    CKM.SHA256: "sha256",
    CKM.SHA384: "sha384",
    CKM.SHA512: "sha512",
}
MASKS = {  # CKG: hash of the mask generation function
    CKG.MGF1_SHA1: "sha1",
    CKG.MGF1_SHA256: "sha256",
    CKG.MGF1_SHA384: "sha384",
    CKG.MGF1_SHA512: "sha512",
}


class PssParams:
    """CK_RSA_PKCS_PSS_PARAMS: hash, hash of the mask generation function, length of the salt in bytes."""

    __slots__ = ("digest", "mask", "salt_length")

    def __init__(self, parameter: bytes | None, digest: str | None) -> None:
        if parameter is None or len(parameter) != 24:
            raise Error(CKR.MECHANISM_PARAM_INVALID, "RSA-PSS needs a CK_RSA_PKCS_PSS_PARAMS")
        hash_, mask, self.salt_length = (int.from_bytes(parameter[at : at + 8], "little") for at in (0, 8, 16))
        if hash_ not in HASHES or mask not in MASKS or digest not in {None, HASHES[hash_]}:
            raise Error(CKR.MECHANISM_PARAM_INVALID, "RSA-PSS with hashes that are unknown or contradict the mechanism")
        self.digest = HASHES[hash_]
        self.mask = MASKS[mask]


class Mechanism:
    """One mechanism: the keys it works with, what it does, and how data are brought into the TPM's form."""

    __slots__ = ("digest", "does", "key", "pads", "type")

    def __init__(self, type_: int, key: int, does: int, *, pads: str = "", digest: str | None = None) -> None:
        self.type = type_
        self.key = key
        self.does = does
        self.pads = pads
        self.digest = digest

    @property
    def name(self) -> str:
        """The standard's name, as ``CKM_ECDSA``."""
        return "CKM_" + next(word for word, number in vars(CKM).items() if number == self.type)

    @property
    def flags(self) -> int:
        """CK_MECHANISM_INFO.flags (Base Specification 3.0, clause 5.5.6)."""
        curves = CKF.EC_F_P | CKF.EC_NAMEDCURVE | CKF.EC_UNCOMPRESS if self.key == CKK.EC else 0
        return self.does | CKF.HW | curves

    def params(self, parameter: bytes | None) -> PssParams | None:
        """Decode the mechanism's parameter; CKR_MECHANISM_PARAM_INVALID if it is not what the mechanism takes."""
        if self.pads == PSS:
            return PssParams(parameter, self.digest)
        if parameter:
            raise Error(CKR.MECHANISM_PARAM_INVALID, "the mechanism takes no parameter")
        return None

    def sizes(self, capabilities: tuple[str, ...]) -> list[int]:
        """Give the key sizes in bits that a TPM with these capabilities has for the mechanism; empty: none."""
        if self.key == CKK.EC:
            return [bits for curve, (bits, _) in CURVES.items() if curve in capabilities]
        return [bits for bits in RSA_SIZES if f"rsa{bits}" in capabilities]


MECHANISMS = {
    row.type: row
    for row in (
        Mechanism(CKM.RSA_PKCS_KEY_PAIR_GEN, CKK.RSA, CKF.GENERATE_KEY_PAIR),
        Mechanism(CKM.RSA_PKCS, CKK.RSA, CKF.SIGN, pads=PKCS1),
        Mechanism(CKM.SHA1_RSA_PKCS, CKK.RSA, CKF.SIGN, pads=PKCS1, digest="sha1"),
        Mechanism(CKM.SHA256_RSA_PKCS, CKK.RSA, CKF.SIGN, pads=PKCS1, digest="sha256"),
        Mechanism(CKM.SHA384_RSA_PKCS, CKK.RSA, CKF.SIGN, pads=PKCS1, digest="sha384"),
        Mechanism(CKM.SHA512_RSA_PKCS, CKK.RSA, CKF.SIGN, pads=PKCS1, digest="sha512"),
        Mechanism(CKM.RSA_PKCS_PSS, CKK.RSA, CKF.SIGN, pads=PSS),
        Mechanism(CKM.SHA1_RSA_PKCS_PSS, CKK.RSA, CKF.SIGN, pads=PSS, digest="sha1"),
        Mechanism(CKM.SHA256_RSA_PKCS_PSS, CKK.RSA, CKF.SIGN, pads=PSS, digest="sha256"),
        Mechanism(CKM.SHA384_RSA_PKCS_PSS, CKK.RSA, CKF.SIGN, pads=PSS, digest="sha384"),
        Mechanism(CKM.SHA512_RSA_PKCS_PSS, CKK.RSA, CKF.SIGN, pads=PSS, digest="sha512"),
        Mechanism(CKM.EC_KEY_PAIR_GEN, CKK.EC, CKF.GENERATE_KEY_PAIR),
        Mechanism(CKM.ECDSA, CKK.EC, CKF.SIGN, pads=ECDSA),
        Mechanism(CKM.ECDSA_SHA1, CKK.EC, CKF.SIGN, pads=ECDSA, digest="sha1"),
        Mechanism(CKM.ECDSA_SHA256, CKK.EC, CKF.SIGN, pads=ECDSA, digest="sha256"),
        Mechanism(CKM.ECDSA_SHA384, CKK.EC, CKF.SIGN, pads=ECDSA, digest="sha384"),
        Mechanism(CKM.ECDSA_SHA512, CKK.EC, CKF.SIGN, pads=ECDSA, digest="sha512"),
    )
}


_of_tpm: dict[tuple[str, ...], dict[int, tuple[Mechanism, list[int]]]] = {}


def of_tpm(capabilities: tuple[str, ...]) -> dict[int, tuple[Mechanism, list[int]]]:
    """Give the mechanisms of a TPM with these capabilities by type, with its key sizes in bits."""
    found = _of_tpm.get(capabilities)
    if found is None:
        sizes = {type_: (row, row.sizes(capabilities)) for type_, row in MECHANISMS.items()}
        found = _of_tpm[capabilities] = {type_: entry for type_, entry in sizes.items() if entry[1]}
    return found


def mechanism(type_: int, does: int) -> Mechanism:
    """Find a mechanism that does what is asked (a CKF_ flag); CKR_MECHANISM_INVALID if there is none."""
    row = MECHANISMS.get(type_)
    if row is None or not row.does & does:
        raise Error(CKR.MECHANISM_INVALID, f"mechanism {type_:#x} is not there for this function")
    return row


def curve_of(ec_params: bytes) -> str:
    """Give the name of the curve of a CKA_EC_PARAMS; CKR_CURVE_NOT_SUPPORTED if it is none of ours."""
    for curve, (_, oid) in CURVES.items():
        if oid == ec_params:
            return curve
    raise Error(CKR.CURVE_NOT_SUPPORTED, "the curve is none of P-256, P-384, P-521 as a named curve")
