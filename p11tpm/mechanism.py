"""Mechanisms: each one declared once; lists, CK_MECHANISM_INFO and operations are derived from the rows.

Source: PKCS#11 Current Mechanisms 3.0, clauses 2.1 (RSA), 2.2 (DSA), 2.3 (EC), 2.4 (DH), 2.5 (generic secrets), 2.8 to
2.16 (AES), 2.16 and 2.17 (DES), 2.20 to 2.29 (hashes), 2.43 (derivation from keys), 2.58 (HKDF); Historical Mechanisms
3.0 (MD5). MD5, DES, DSA and DH are there for hosts that know nothing newer; the setting ``mechanisms`` denies them.
"""

from __future__ import annotations

from p11tpm.algorithm import CURVES, constants
from p11tpm.ck import CKF, CKK, CKM, CKR
from p11tpm.error import Error
from p11tpm.host.imports import Late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from typing import Any

    from p11tpm import parameter as parameters
    from p11tpm.given import Given
else:
    parameters = Late("p11tpm.parameter")

# The form of the data that the TPM gets, or the algorithm in software.
PKCS1 = "pkcs1"
RAW = "raw"
PSS = "pss"
OAEP = "oaep"
ECDSA = "ecdsa"
DSA = "dsa"
HMAC = "hmac"
CMAC = "cmac"
CBC_MAC = "cbc-mac"
HASH = "hash"
ECB = "ecb"
CBC = "cbc"
CBC_PAD = "cbc-pad"
CTR = "ctr"
CFB = "cfb128"
GCM = "gcm"
CCM = "ccm"
KEY_WRAP = "key-wrap"
KEY_WRAP_PAD = "key-wrap-pad"
ENCRYPT_ECB = "encrypt-ecb"
ENCRYPT_CBC = "encrypt-cbc"
JOIN_KEY = "base|key"
APPEND = "base|data"
PREPEND = "data|base"
XOR = "base^data"
HKDF = "hkdf"

RSA_SIZES = (1024, 2048, 3072, 4096)
EDWARDS_SIZES = (255, 448)  # bits of the field
DSA_SIZES = (1024, 2048, 3072)  # bits of the prime
DH_SIZES = (1024, 8192)  # bits of the prime, least and most
AES_SIZES = (16, 24, 32)  # bytes
DES_SIZES = {CKK.DES2: 16, CKK.DES3: 24}  # bytes, with the parity bits
LONGEST_SECRET = 4096  # bytes of a generic secret

HMAC_KEYS = constants(CKK, "*_HMAC")  # the key type that is for the HMAC of one hash only
SECRETS = (CKK.GENERIC_SECRET, CKK.AES, *DES_SIZES, *HMAC_KEYS.values(), CKK.HKDF)

_SIGN = CKF.SIGN | CKF.VERIFY
_RECOVER = CKF.SIGN_RECOVER | CKF.VERIFY_RECOVER
_CIPHER = CKF.ENCRYPT | CKF.DECRYPT
_WRAP = CKF.WRAP | CKF.UNWRAP
_RSA, _EC, _AES = (CKK.RSA,), (CKK.EC,), (CKK.AES,)
_DSA, _DH, _DES = (CKK.DSA,), (CKK.DH,), tuple(DES_SIZES)
_EDWARDS = (CKK.EC_EDWARDS,)
_CURVE_FLAGS: dict[tuple[int, ...], int] = {  # of the keys of a mechanism (clause 2.3.1)
    _EC: CKF.EC_F_P | CKF.EC_NAMEDCURVE | CKF.EC_UNCOMPRESS,
    _EDWARDS: CKF.EC_F_P | CKF.EC_NAMEDCURVE | CKF.EC_CURVENAME,
}


class Mechanism:
    """One mechanism: the types of its `keys` (none for a digest), what it `does` (CKF_ flags), in what `form`.

    `family` is the file in p11tpm/family/ that does it; `digest` is the hash of the data; `parameter` the name of
    the class in p11tpm/parameter.py that decodes its parameter, empty if it takes none: what the host has there instead
    is not looked at; `sizes` the least and the greatest key size of what is done in software, in the standard's
    unit.
    """

    __slots__ = ("_sizes", "digest", "does", "family", "form", "keys", "parameter", "type")

    def __init__(
        self,
        type_: int,
        keys: tuple[int, ...],
        does: int,
        form: str = "",
        *,
        digest: str | None = None,
        parameter: str = "",
        sizes: tuple[int, int] = (0, 0),
    ) -> None:
        self.family = ""  # digests have none: `_rows`
        self.type = type_
        self.keys = keys
        self.does = does
        self.form = form
        self.digest = digest
        self.parameter = parameter
        self._sizes = sizes

    @property
    def name(self) -> str:
        """The standard's name, as ``CKM_ECDSA``."""
        return "CKM_" + next(word for word, number in vars(CKM).items() if number == self.type)

    @property
    def in_tpm(self) -> bool:
        """Whether the TPM does what needs the secret part of a key, whatever the key."""
        return self.keys in {_RSA, _EC}

    @property
    def of_pairs(self) -> bool:
        """Whether its keys come in pairs, one private and one public."""
        return self.in_tpm or self.keys in {_DSA, _DH, _EDWARDS}

    def in_hardware(self, capabilities: Container[str]) -> bool:
        """Whether a TPM with these capabilities does what needs the secret part of a key in it: `placement`."""
        if self.keys == _AES and not self.does & CKF.DERIVE:
            return any(f"aes{8 * size}" in capabilities for size in AES_SIZES)
        if self.form == HMAC:
            return "hmac" in capabilities and self.digest in capabilities
        return self.in_tpm

    def flags(self, capabilities: Container[str]) -> int:
        """CK_MECHANISM_INFO.flags (Base Specification 3.0, clause 5.5.6) of a token with these capabilities."""
        hardware = CKF.HW if self.in_hardware(capabilities) else 0
        return self.does | hardware | _CURVE_FLAGS.get(self.keys, 0)

    def params(self, given: Given) -> Any:
        """Decode the mechanism's parameter; CKR_MECHANISM_PARAM_INVALID if it is not what the mechanism takes."""
        return getattr(parameters, self.parameter)(given, self.digest) if self.parameter else None

    def sizes(self, capabilities: tuple[str, ...]) -> tuple[int, ...]:
        """Return the key sizes that a token has for the mechanism, or the least and the greatest; empty for none."""
        if self.keys == _EC:
            return tuple(curve.bits for name, curve in CURVES.items() if name in capabilities)
        if self.keys == _RSA:
            return tuple(bits for bits in RSA_SIZES if f"rsa{bits}" in capabilities)
        return self._sizes


def _digests() -> list[Mechanism]:
    return [Mechanism(type_, (), CKF.DIGEST, HASH, digest=digest) for digest, type_ in constants(CKM, "*").items()]


def _rsa() -> list[Mechanism]:
    pkcs1, pss = constants(CKM, "*_RSA_PKCS"), constants(CKM, "*_RSA_PKCS_PSS")
    plain = _SIGN | _RECOVER | _CIPHER | _WRAP
    return [
        Mechanism(CKM.RSA_PKCS_KEY_PAIR_GEN, _RSA, CKF.GENERATE_KEY_PAIR),
        Mechanism(CKM.RSA_PKCS, _RSA, plain, PKCS1),
        Mechanism(CKM.RSA_X_509, _RSA, plain, RAW),
        Mechanism(CKM.RSA_PKCS_OAEP, _RSA, _CIPHER | _WRAP, OAEP, parameter="OaepParams"),
        Mechanism(CKM.RSA_PKCS_PSS, _RSA, _SIGN, PSS, parameter="PssParams"),
        *(Mechanism(type_, _RSA, _SIGN, PKCS1, digest=digest) for digest, type_ in pkcs1.items()),
        *(Mechanism(type_, _RSA, _SIGN, PSS, digest=digest, parameter="PssParams") for digest, type_ in pss.items()),
    ]


def _ec() -> list[Mechanism]:
    types = constants(CKM, "ECDSA_*")
    return [
        Mechanism(CKM.EC_KEY_PAIR_GEN, _EC, CKF.GENERATE_KEY_PAIR),
        Mechanism(CKM.ECDSA, _EC, _SIGN, ECDSA),
        *(Mechanism(type_, _EC, _SIGN, ECDSA, digest=digest) for digest, type_ in types.items()),
        Mechanism(CKM.ECDH1_DERIVE, _EC, CKF.DERIVE, parameter="EcdhParams"),
        Mechanism(CKM.ECDH1_COFACTOR_DERIVE, _EC, CKF.DERIVE, parameter="EcdhParams"),
    ]


def _edwards() -> list[Mechanism]:
    return [
        Mechanism(CKM.EC_EDWARDS_KEY_PAIR_GEN, _EDWARDS, CKF.GENERATE_KEY_PAIR, sizes=EDWARDS_SIZES),
        Mechanism(CKM.EDDSA, _EDWARDS, _SIGN, parameter="EddsaParams", sizes=EDWARDS_SIZES),
    ]


def _aes() -> list[Mechanism]:
    def row(type_: int, does: int, form: str, parameter: str = "") -> Mechanism:
        return Mechanism(type_, _AES, does, form, parameter=parameter, sizes=(min(AES_SIZES), max(AES_SIZES)))

    return [
        row(CKM.AES_KEY_GEN, CKF.GENERATE, ""),
        row(CKM.AES_ECB, _CIPHER | _WRAP, ECB),
        row(CKM.AES_CBC, _CIPHER | _WRAP, CBC, "Iv"),
        row(CKM.AES_CBC_PAD, _CIPHER | _WRAP, CBC_PAD, "Iv"),
        row(CKM.AES_CTR, _CIPHER | _WRAP, CTR, "CtrParams"),
        row(CKM.AES_CFB128, _CIPHER | _WRAP, CFB, "Iv"),
        row(CKM.AES_GCM, _CIPHER | _WRAP, GCM, "GcmParams"),
        row(CKM.AES_CCM, _CIPHER | _WRAP, CCM, "CcmParams"),
        row(CKM.AES_MAC, _SIGN, CBC_MAC),
        row(CKM.AES_MAC_GENERAL, _SIGN, CBC_MAC, "MacLength"),
        row(CKM.AES_CMAC, _SIGN, CMAC),
        row(CKM.AES_CMAC_GENERAL, _SIGN, CMAC, "MacLength"),
        row(CKM.AES_KEY_WRAP, _CIPHER | _WRAP, KEY_WRAP, "WrapIv"),
        row(CKM.AES_KEY_WRAP_PAD, _CIPHER | _WRAP, KEY_WRAP_PAD, "WrapIv"),
        row(CKM.AES_ECB_ENCRYPT_DATA, CKF.DERIVE, ENCRYPT_ECB, "StringData"),
        row(CKM.AES_CBC_ENCRYPT_DATA, CKF.DERIVE, ENCRYPT_CBC, "CbcData"),
        row(CKM.AES_KEY_WRAP_KWP, _CIPHER | _WRAP, KEY_WRAP_PAD, "WrapIv"),
    ]


def _des() -> list[Mechanism]:
    def row(type_: int, does: int, form: str, parameter: str = "", keys: tuple[int, ...] = _DES) -> Mechanism:
        lengths = [DES_SIZES[key] for key in keys]
        return Mechanism(type_, keys, does, form, parameter=parameter, sizes=(min(lengths), max(lengths)))

    return [
        row(CKM.DES2_KEY_GEN, CKF.GENERATE, "", keys=(CKK.DES2,)),
        row(CKM.DES3_KEY_GEN, CKF.GENERATE, "", keys=(CKK.DES3,)),
        row(CKM.DES3_ECB, _CIPHER | _WRAP, ECB),
        row(CKM.DES3_CBC, _CIPHER | _WRAP, CBC, "DesIv"),
        row(CKM.DES3_CBC_PAD, _CIPHER | _WRAP, CBC_PAD, "DesIv"),
        row(CKM.DES3_MAC, _SIGN, CBC_MAC),
        row(CKM.DES3_MAC_GENERAL, _SIGN, CBC_MAC, "MacLength"),
        row(CKM.DES3_CMAC, _SIGN, CMAC),
        row(CKM.DES3_CMAC_GENERAL, _SIGN, CMAC, "MacLength"),
        row(CKM.DES3_ECB_ENCRYPT_DATA, CKF.DERIVE, ENCRYPT_ECB, "StringData"),
        row(CKM.DES3_CBC_ENCRYPT_DATA, CKF.DERIVE, ENCRYPT_CBC, "DesCbcData"),
    ]


def _dsa() -> list[Mechanism]:
    dsa, hashed = (min(DSA_SIZES), max(DSA_SIZES)), constants(CKM, "DSA_*")
    return [
        Mechanism(CKM.DSA_PARAMETER_GEN, _DSA, CKF.GENERATE, sizes=dsa),
        Mechanism(CKM.DSA_KEY_PAIR_GEN, _DSA, CKF.GENERATE_KEY_PAIR, sizes=dsa),
        Mechanism(CKM.DSA, _DSA, _SIGN, DSA, sizes=dsa),
        *(Mechanism(type_, _DSA, _SIGN, DSA, digest=digest, sizes=dsa) for digest, type_ in hashed.items()),
    ]


def _dh() -> list[Mechanism]:
    return [
        Mechanism(CKM.DH_PKCS_PARAMETER_GEN, _DH, CKF.GENERATE, sizes=DH_SIZES),
        Mechanism(CKM.DH_PKCS_KEY_PAIR_GEN, _DH, CKF.GENERATE_KEY_PAIR, sizes=DH_SIZES),
        Mechanism(CKM.DH_PKCS_DERIVE, _DH, CKF.DERIVE, parameter="PublicValue", sizes=DH_SIZES),
    ]


def _hmac() -> list[Mechanism]:
    def row(type_: int, digest: str, parameter: str = "") -> Mechanism:
        keys, sizes = (CKK.GENERIC_SECRET, HMAC_KEYS[digest]), (1, LONGEST_SECRET)
        return Mechanism(type_, keys, _SIGN, HMAC, digest=digest, parameter=parameter, sizes=sizes)

    macs, general = constants(CKM, "*_HMAC"), constants(CKM, "*_HMAC_GENERAL")
    return [
        *(row(type_, digest) for digest, type_ in macs.items()),
        *(row(type_, digest, "MacLength") for digest, type_ in general.items()),
    ]


def _secrets() -> list[Mechanism]:
    in_bits, in_bytes = (8, 8 * LONGEST_SECRET), (1, LONGEST_SECRET)
    hashed = constants(CKM, "*_KEY_DERIVATION")
    joined = {CKM.CONCATENATE_BASE_AND_KEY: (JOIN_KEY, "OtherKey")}
    joined[CKM.CONCATENATE_BASE_AND_DATA] = (APPEND, "StringData")
    joined |= {CKM.CONCATENATE_DATA_AND_BASE: (PREPEND, "StringData"), CKM.XOR_BASE_AND_DATA: (XOR, "StringData")}

    def derivation(type_: int, form: str, parameter: str = "", digest: str | None = None) -> Mechanism:
        return Mechanism(type_, SECRETS, CKF.DERIVE, form, digest=digest, parameter=parameter, sizes=in_bytes)

    return [
        Mechanism(CKM.GENERIC_SECRET_KEY_GEN, (CKK.GENERIC_SECRET,), CKF.GENERATE, sizes=in_bits),
        Mechanism(CKM.HKDF_KEY_GEN, (CKK.HKDF,), CKF.GENERATE, sizes=in_bytes),
        *(derivation(type_, HASH, digest=digest) for digest, type_ in hashed.items()),
        *(derivation(type_, form, parameter) for type_, (form, parameter) in joined.items()),
        derivation(CKM.HKDF_DERIVE, HKDF, "HkdfParams"),
        derivation(CKM.HKDF_DATA, HKDF, "HkdfParams"),
    ]


def _rows() -> Iterator[Mechanism]:
    """Return all rows, those of each family by the name of its file in p11tpm/family/."""
    pairs = (("rsa", _rsa()), ("ec", _ec()), ("edwards", _edwards()), ("dsa", _dsa()), ("dh", _dh()))
    secrets = (("block", _aes()), ("block", _des()), ("hmac", _hmac()), ("secret", _secrets()))
    for family, rows in pairs + secrets:
        for row in rows:
            row.family = family
            yield row
    yield from _digests()


MECHANISMS = {row.type: row for row in _rows()}

_offered: dict[tuple[str, Container[int] | None], dict[int, tuple[Mechanism, tuple[int, ...]]]] = {}


def offered(capabilities: str, chosen: Container[int] | None = None) -> dict[int, tuple[Mechanism, tuple[int, ...]]]:
    """Return the mechanisms of a token by type, with their key sizes.

    They are those that a TPM with these capabilities has and that are in `chosen`, of which None means all.
    """
    found = _offered.get((capabilities, chosen))
    if found is None:
        words = tuple(capabilities.split())
        sizes = {type_: (row, row.sizes(words)) for type_, row in MECHANISMS.items()}
        found = {type_: entry for type_, entry in sizes.items() if entry[1] and (chosen is None or type_ in chosen)}
        _offered[capabilities, chosen] = found
    return found


def curve_of(ec_params: bytes) -> str:
    """Return the name of the curve of a CKA_EC_PARAMS; CKR_CURVE_NOT_SUPPORTED if it is none of ours."""
    for name, curve in CURVES.items():
        if curve.params == ec_params:
            return name
    raise Error(CKR.CURVE_NOT_SUPPORTED, "the curve is not one of P-192 to P-521 as a named curve")
