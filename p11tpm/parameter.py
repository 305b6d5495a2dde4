"""Parameters of mechanisms: what a host gives beside the mechanism's type, decoded once, when an operation begins.

A structure is read as it lies in the memory of an LP64 machine: a CK_ULONG, a handle and a pointer have 8 bytes each.
Source: PKCS#11 Current Mechanisms 3.0, the clause that each class names.
"""

from __future__ import annotations

from p11tpm.algorithm import constants
from p11tpm.ck import CKD, CKG, CKM, CKZ
from p11tpm.given import refused, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.given import Given

MASKS = {mask: name for name, mask in constants(CKG, "MGF1_*").items()}  # CKG: hash of the mask generation function
HASHES = {type_: name for name, type_ in constants(CKM, "*").items() if name in MASKS.values()}  # CKM of the hash
# CKD: hash of the key derivation function, None for the bare shared value
DERIVATIONS = {CKD.NULL: None, **{type_: name for name, type_ in constants(CKD, "*_KDF").items()}}
AES_BLOCK = 16  # bytes
DES_BLOCK = 8
_LONGEST_INITIAL_VALUE = 8
_LONGEST_PUBLIC_VALUE = 1 << 16  # a number as long as any prime of DH, with zeros before it


class PssParams:
    """CK_RSA_PKCS_PSS_PARAMS: hash, hash of the mask, length of the salt in bytes (clause 2.1.9)."""

    __slots__ = ("digest", "mask", "salt_length")

    def __init__(self, given: Given, digest: str | None = None) -> None:
        hash_, mask, self.salt_length = given.numbers(3, "CK_RSA_PKCS_PSS_PARAMS")
        if hash_ not in HASHES or mask not in MASKS or digest not in {None, HASHES[hash_]}:
            raise refused("RSA-PSS with hashes that are unknown or contradict the mechanism")
        self.digest = HASHES[hash_]
        self.mask = MASKS[mask]


class OaepParams:
    """CK_RSA_PKCS_OAEP_PARAMS: hash, hash of the mask generation function, label (clause 2.1.7)."""

    __slots__ = ("digest", "label", "mask")

    def __init__(self, given: Given, _digest: str | None = None) -> None:
        hash_, mask, source, address, length = given.numbers(5, "CK_RSA_PKCS_OAEP_PARAMS")
        if hash_ not in HASHES or mask not in MASKS or source not in {0, CKZ.DATA_SPECIFIED} or (length and not source):
            raise refused("RSA-OAEP with an unknown hash, mask generation function or source of the label")
        self.digest = HASHES[hash_]
        self.mask = MASKS[mask]
        self.label = given.pointed(address, length)


class EddsaParams:
    """CK_EDDSA_PARAMS: whether the message is hashed first, context (clause 2.3.14); `given` is false for NULL."""

    __slots__ = ("context", "given", "prehashed")

    def __init__(self, given: Given, _digest: str | None = None) -> None:
        parameter = given.up_to(24)
        self.given = bool(parameter)
        flag, length, address = split(parameter) if len(parameter) == 24 else (0, 0, 0)
        if self.given and len(parameter) != 24:
            raise refused("the mechanism needs a CK_EDDSA_PARAMS of 24 bytes")
        self.prehashed = bool(flag & 0xFF)  # a CK_BBOOL, then padding
        self.context = given.pointed(address, length)


class EcdhParams:
    """CK_ECDH1_DERIVE_PARAMS: key derivation function, shared data, the other side's public point (clause 2.3.17).

    `digest` is the hash of the function, None for none; `point` is as given, raw or as a DER OCTET STRING.
    """

    __slots__ = ("digest", "point", "shared_data")

    def __init__(self, given: Given, _digest: str | None = None) -> None:
        kdf, length, address, point_length, point = given.numbers(5, "CK_ECDH1_DERIVE_PARAMS")
        if kdf not in DERIVATIONS or (length and kdf == CKD.NULL):
            raise refused("a key derivation function that is unknown, or shared data without one")
        self.digest = DERIVATIONS[kdf]
        self.shared_data = given.pointed(address, length)
        self.point = given.pointed(point, point_length)


class PublicValue:
    """The other side's public value of DH, a big-endian number (clause 2.4.6)."""

    __slots__ = ("number",)

    def __init__(self, given: Given, _digest: str | None = None) -> None:
        value = given.up_to(_LONGEST_PUBLIC_VALUE)
        if not value:
            raise refused("the mechanism needs the other side's public value")
        self.number = int.from_bytes(value, "big")


class Iv:
    """An initialisation vector of one block of AES (clauses 2.10 and 2.11)."""

    __slots__ = ("iv",)
    block = AES_BLOCK

    def __init__(self, given: Given, _digest: str | None = None) -> None:
        self.iv = given.exactly(self.block, "an initialisation vector")


class DesIv(Iv):
    """An initialisation vector of one block of DES (clause 2.16)."""

    __slots__ = ()
    block = DES_BLOCK


class WrapIv:
    """The initial value of AES key wrapping: 8 bytes, 4 with padding (clause 2.14); NULL or empty: the standard one."""

    __slots__ = ("iv",)

    def __init__(self, given: Given, _digest: str | None = None) -> None:
        self.iv = given.up_to(_LONGEST_INITIAL_VALUE)


class CtrParams:
    """CK_AES_CTR_PARAMS: bits of the counter, the whole counter block (clause 2.10.3)."""

    __slots__ = ("bits", "block")

    def __init__(self, given: Given, _digest: str | None = None) -> None:
        parameter = given.exactly(8 + AES_BLOCK, "a CK_AES_CTR_PARAMS")
        self.bits = int.from_bytes(parameter[:8], "little")
        self.block = parameter[8:]
        if not 0 < self.bits <= 8 * AES_BLOCK:
            raise refused("the counter has 1 to 128 bits")


class GcmParams:
    """CK_GCM_PARAMS: nonce, associated data, length of the tag in bits (clause 2.12.3).

    Older headers lack ulIvBits: both lengths of the structure are read.
    """

    __slots__ = ("associated", "nonce", "tag_length")

    def __init__(self, given: Given, _digest: str | None = None) -> None:
        members = 5 if given.length == 40 else 6
        address, length, *_, aad, aad_length, bits = given.numbers(members, "CK_GCM_PARAMS")
        if bits % 8 or not 0 < bits <= 8 * AES_BLOCK or not length:
            raise refused("AES-GCM needs a nonce, and a tag of 8 to 128 bits")
        self.nonce = given.pointed(address, length)
        self.associated = given.pointed(aad, aad_length)
        self.tag_length = bits // 8


class CcmParams:
    """CK_CCM_PARAMS: length of the data, nonce, associated data, length of the tag in bytes (clause 2.12.4)."""

    __slots__ = ("associated", "length", "nonce", "tag_length")

    def __init__(self, given: Given, _digest: str | None = None) -> None:
        self.length, nonce, nonce_length, aad, aad_length, self.tag_length = given.numbers(6, "CK_CCM_PARAMS")
        if not 7 <= nonce_length <= 13 or self.tag_length not in range(4, 17, 2):
            raise refused("AES-CCM needs a nonce of 7 to 13 bytes and a tag of 4, 6, ... 16 bytes")
        self.nonce = given.pointed(nonce, nonce_length)
        self.associated = given.pointed(aad, aad_length)


class MacLength:
    """CK_MAC_GENERAL_PARAMS: length of the code in bytes (clause 2.20.3)."""

    __slots__ = ("length",)

    def __init__(self, given: Given, _digest: str | None = None) -> None:
        (self.length,) = given.numbers(1, "CK_MAC_GENERAL_PARAMS")


class OtherKey:
    """The handle of the `key` that a key is joined with (clause 2.43.3)."""

    __slots__ = ("key",)

    def __init__(self, given: Given, _digest: str | None = None) -> None:
        (self.key,) = given.numbers(1, "CK_OBJECT_HANDLE")


class StringData:
    """CK_KEY_DERIVATION_STRING_DATA: bytes that are joined with a key (clause 2.43.2)."""

    __slots__ = ("data",)

    def __init__(self, given: Given, _digest: str | None = None) -> None:
        address, length = given.numbers(2, "CK_KEY_DERIVATION_STRING_DATA")
        self.data = given.pointed(address, length)


class CbcData:
    """CK_AES_CBC_ENCRYPT_DATA_PARAMS: initialisation vector, data that are encrypted (clause 2.15.2)."""

    __slots__ = ("data", "iv")
    block = AES_BLOCK

    def __init__(self, given: Given, _digest: str | None = None) -> None:
        parameter = given.exactly(self.block + 16, "an initialisation vector, a pointer and a length")
        self.iv = parameter[: self.block]
        address, length = split(parameter[self.block :])
        self.data = given.pointed(address, length)


class DesCbcData(CbcData):
    """CK_DES_CBC_ENCRYPT_DATA_PARAMS: the same, with a block of DES (clause 2.15.2)."""

    __slots__ = ()
    block = DES_BLOCK


class HkdfParams:
    """CK_HKDF_PARAMS: which steps, hash, salt of the first step and info of the second (clause 2.58.2).

    `salt` is None for none; `key` is the handle of a key whose value is the salt, 0 for none.
    """

    __slots__ = ("digest", "expand", "extract", "info", "key", "salt")

    def __init__(self, given: Given, _digest: str | None = None) -> None:
        steps, hash_, kind, salt, salt_length, salt_key, info, info_length = given.numbers(8, "CK_HKDF_PARAMS")
        self.extract, self.expand = bool(steps & 0xFF), bool(steps >> 8 & 0xFF)  # two CK_BBOOL, then padding
        if hash_ not in HASHES or not (self.extract or self.expand):
            raise refused("HKDF with an unknown hash, or without any step")
        self.digest = HASHES[hash_]
        if not self.extract:
            kind = _NO_SALT
        if kind not in {_NO_SALT, _SALT_DATA, _SALT_KEY} or (kind == _SALT_KEY and not salt_key):
            raise refused("HKDF with an unknown kind of salt, or with the salt of a key that is not named")
        self.salt = given.pointed(salt, salt_length) if kind == _SALT_DATA else None
        self.key = salt_key if kind == _SALT_KEY else 0
        self.info = given.pointed(info, info_length) if self.expand else b""


_NO_SALT, _SALT_DATA, _SALT_KEY = 1, 2, 4  # CKF_HKDF_SALT_NULL, _DATA, _KEY
