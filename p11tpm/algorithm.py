"""Curves and hashes: what the standards say of each, once; all other tables of them are derived from these two.

Their names are p11tpm's words: in a token's capabilities, in options, in errors; those of hashes are hashlib's too.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.ck import CKD, CKG, CKK, CKM


class Curve:
    """A curve y^2 = x^3 - 3x + b over the field of a prime, with a group of points of prime order.

    `params`: DER of the named curve's object identifier (RFC 5480, clause 2.1.1.1). `tpm`: its TPM_ECC_CURVE (TPM 2.0
    Part 2, clause 6.4). `bits`: of the prime and of the order; `size`: bytes of a coordinate.
    """

    __slots__ = ("b", "bits", "order", "params", "prime", "size", "tpm")

    def __init__(self, params: str, tpm: int, prime: int, b: int, order: int) -> None:
        self.params = bytes.fromhex(params)
        self.tpm = tpm
        self.prime = prime
        self.b = b
        self.order = order
        self.bits = prime.bit_length()
        self.size = (self.bits + 7) // 8


CURVES = {  # prime, b and order: FIPS 186-4, appendix D.1.2
    "p192": Curve(
        "06082a8648ce3d030101",
        0x0001,
        2**192 - 2**64 - 1,
        0x64210519E59C80E70FA7E9AB72243049FEB8DEECC146B9B1,
        0xFFFFFFFFFFFFFFFFFFFFFFFF99DEF836146BC9B1B4D22831,
    ),
    "p224": Curve(
        "06052b81040021",
        0x0002,
        2**224 - 2**96 + 1,
        0xB4050A850C04B3ABF54132565044B0B7D7BFD8BA270B39432355FFB4,
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFF16A2E0B8F03E13DD29455C5C2A3D,
    ),
    "p256": Curve(
        "06082a8648ce3d030107",
        0x0003,
        2**256 - 2**224 + 2**192 + 2**96 - 1,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
    "p384": Curve(
        "06052b81040022",
        0x0004,
        2**384 - 2**128 - 2**96 + 2**32 - 1,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    ),
    "p521": Curve(
        "06052b81040023",
        0x0005,
        2**521 - 1,
        0x51953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
        0x1FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409,
    ),
}


class Hash:
    """A hash function.

    `words`: its names in the standard's constants, see `constants`. `size` and `block`: bytes of a digest, and of what
    is hashed at a time. `tpm`: its TPM_ALG_ID (TPM 2.0 Part 2, clause 6.3), 0 where no TPM is asked for it.
    `digest_info`: DER of PKCS #1's DigestInfo up to the digest (RFC 8017, clause 9.2, note 1), empty where no mechanism
    has it. `native`: whether csrc/hash.c computes it; hashlib has the others.
    """

    __slots__ = ("block", "digest_info", "native", "size", "tpm", "words")

    def __init__(
        self,
        words: tuple[str, ...],
        size: int,
        block: int,
        *,
        tpm: int = 0,
        digest_info: str = "",
        native: bool = False,
    ) -> None:
        self.words = words
        self.size = size
        self.block = block
        self.tpm = tpm
        self.digest_info = bytes.fromhex(digest_info)
        self.native = native


HASHES = {
    "md5": Hash(("MD5",), 16, 64, digest_info="3020300c06082a864886f70d020505000410"),
    "sha1": Hash(
        ("SHA1", "SHA_1"),
        20,
        64,
        tpm=0x0004,
        digest_info="3021300906052b0e03021a05000414",
        native=True,
    ),
    "sha224": Hash(
        ("SHA224",),
        28,
        64,
        digest_info="302d300d06096086480165030402040500041c",
        native=True,
    ),
    "sha256": Hash(
        ("SHA256",),
        32,
        64,
        tpm=0x000B,
        digest_info="3031300d060960864801650304020105000420",
        native=True,
    ),
    "sha384": Hash(
        ("SHA384",),
        48,
        128,
        tpm=0x000C,
        digest_info="3041300d060960864801650304020205000430",
        native=True,
    ),
    "sha512": Hash(
        ("SHA512",),
        64,
        128,
        tpm=0x000D,
        digest_info="3051300d060960864801650304020305000440",
        native=True,
    ),
    "sha3_224": Hash(("SHA3_224",), 28, 144),
    "sha3_256": Hash(("SHA3_256",), 32, 136),
    "sha3_384": Hash(("SHA3_384",), 48, 104),
    "sha3_512": Hash(("SHA3_512",), 64, 72),
}


_NAMES = {word: name for name, hash_ in HASHES.items() for word in hash_.words}


def constants(numbers: type[CKD | CKG | CKK | CKM], form: str) -> dict[str, int]:
    """Return the standard's constants of a form, such as ``*_RSA_PKCS``, by the names of the hashes that have one."""
    there = vars(numbers)
    words = {form.replace("*", word): name for word, name in _NAMES.items()}
    return {name: there[word] for word, name in words.items() if word in there}
