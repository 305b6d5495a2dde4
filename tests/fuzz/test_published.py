"""Values that others published for the same functions, each with its source; only the values are theirs.

The TPM 2.0 specification gives formulas and no values for them; those of its reference code are here.
"""

from __future__ import annotations

import pytest

from p11tpm.tpm import hmac_session, kdf, policy, salt, template
from p11tpm.tpm.codec import HASHES, name_of, u16, u32

# ms-tpm-20-ref and libtpms, KdfTestData.h: self-test of CryptKDFa (the label there counts its zero byte)
SELF_TEST = bytes.fromhex("271fa08bbdc5060ec3dfa928ff9b73123a12da0c")
SELF_TEST_CONTEXT = bytes.fromhex("ce244f395dca7391"), bytes.fromhex("da504031ddf12e83")


@pytest.mark.parametrize(
    ("digest", "derived"),
    [
        ("sha512", "8be2c1b85b78569b9fa759f5857c56d684810fd3"),
        ("sha384", "1dce70c9113eb2dba47bd9cfc72bf46f45b09312"),
        ("sha256", "bb0259e1c8ba607e6a2cd704b69a902e9ade84c4"),
        ("sha1", "55b5a7184aa07423c47dae766c26a2377d7cf851"),
    ],
)
def test_kdfa_of_the_reference_code(digest, derived):
    assert kdf.kdfa(digest, SELF_TEST, b"KDFSELFTESTLABEL", *SELF_TEST_CONTEXT, 160).hex() == derived


# google/go-tpm, tpm2/kdf_test.go, TestKDFa
@pytest.mark.parametrize(
    ("digest", "key", "context_u", "context_v", "bits", "derived"),
    [
        ("sha256", b"yolo\0", b"kek\0", b"yoyo\0", 128, "d2d72cc7a8a5eb09e8c79012e2da9f22"),
        (
            "sha256",
            b"ca\0",
            b"abc\0",
            b"",
            1024,
            (
                "1aae7151ac1a5690eda7dcabd56800c11c56a3810ba059826fe4776348d6ae8e"
                "5d5d18c7ccf8373f7b942ada8b912b12da56fb37f64b935872841ec07d38e1fb"
                "8e7ec86efcbfb444756bc8863f858d2690a621c9afb983cd77e7a1048ae1a759"
                "8ac895323d44c10227af0a00144cab55111075dc6b72ad6eb163c7458b878e8c"
            ),
        ),
        ("sha1", b"ca\0", b"abc\0", b"", 256, "83f354afcf923de2112e0891434cd0bdc8acbf01b811c0e8cd062ded39e31f7f"),
    ],
)
def test_kdfa_of_go_tpm(digest, key, context_u, context_v, bits, derived):
    assert kdf.kdfa(digest, key, b"IDENTITY", context_u, context_v, bits).hex() == derived


# chrisfenner/tpm-test-vectors, vectors/kdfe.json: 16, 19, 20, 35 and 38, whose lengths are whole bytes
@pytest.mark.parametrize(
    ("digest", "shared", "use", "party_u", "party_v", "bits", "derived"),
    [
        (
            "sha1",
            "eaf978b52c123a29d82b8c6a0f5f4783ff",
            b"IDENTITY",
            "002c88285c18d86f93332dbbcdad7f",
            "b05366c189b8b0c0604d00",
            616,
            (
                "e44394c6e1b0717abcb2d1bfe3e09e91cc464f69c402ee299fc9fe378b2724339e7681d75e72558d0840a0f7c7171f96"
                "9e314d7fe7ecf09ec77f80f8a5d3e902eaa39da40968a495430857e511"
            ),
        ),
        (
            "sha1",
            "9009102b2625d65be30dc3bf",
            b"STORAGE",
            "0039ab599ed7dc937d",
            "f594aaefce859668b1fd9ae9b5ff",
            648,
            (
                "80fcc2c943464b3bfaedc6f7f7f0e41a92bb4fa3556a166737aa1d98d2cd3e45dad521b9a0d1ecab2e7bd6e6ac1dc04a"
                "9c7b8b45ff19a849bd167293dae136affadd7691c165ed8ddc2ac039a96944b315"
            ),
        ),
        (
            "sha1",
            "0026ea710dd5ba2b",
            b"INTEGRITY",
            "",
            "498d6e90dbc8236f00",
            664,
            (
                "ed43de4834f26df43e9a5aac8a427cc9f7d405947934c0818752951be44ac70dede6db951bea88b92a937836013bcd27"
                "fff2c63e6d09be3917d9d23556fb357490d01952f4f835a511d5f7aef2862aacbb90c9"
            ),
        ),
        (
            "sha256",
            "8995a6318a0217c7c7bf543f50da29016c4ff2a1ea5daf54ebcb00",
            b"INTEGRITY",
            "8852f14d8e9b68",
            "74ff",
            336,
            "92343ef558feb95fd14838f9ca39c8618598a7eeb31af7fc276030b8c3ff326d4870f190e54abbec9da4",
        ),
        (
            "sha256",
            "00",
            b"OBFUSCATE",
            "ebcb3cd4a002941ed496ef1d32a70b0b7f6f05b8a51803d5a9ff9b",
            "a1f79a7ee2beee21e2bfaee67769874687bfe21b2468fc8e721b6e967e12ff",
            496,
            (
                "dcd14d72e0d5d8ec15b5ea15ae060e02f0e042f3af7efbd73650bb4457d73b060ef8f78bdf8cea099fe98fad6359bcfe"
                "92c1c6be8a157c1064c85ada3ad2"
            ),
        ),
    ],
)
def test_kdfe_of_tpm_test_vectors(digest, shared, use, party_u, party_v, bits, derived):
    arguments = (bytes.fromhex(shared), use, bytes.fromhex(party_u), bytes.fromhex(party_v), bits)
    assert kdf.kdfe(digest, *arguments).hex() == derived


class Numbers:
    """Random numbers that are none."""

    def __init__(self, *values: bytes) -> None:
        self._values = list(values)

    def __call__(self, size: int) -> bytes:
        value = self._values.pop(0)
        assert len(value) <= size
        return value.rjust(size, b"\0")


# chrisfenner/tpm-test-vectors, vectors/ecc_labeled_encaps.json: 06, 22, 51, 63, those for storage keys with the label
# SECRET, which a simulator's TPM2_StartAuthSession has accepted: the ephemeral key, the TPMT_PUBLIC, salt and secret
ECC = [
    (
        "897989c19f950c5f32f3a2156832bb49b39b0562f372e6e180be309c2bbc07c0",
        (
            "0023000b00030460000000060080004300100003001000207d1f639091f4f93753e5ca964f537491e2ee50058bdf8d93c2f6f165d02a6f2c"
            "00205b4e618a7dad9e0cbc7d974ff78ac75ac3ca7be3c54a2b064e0f42f3b43de892"
        ),
        "428bee6074a8d9c43979617363ca78cedc7b56673d43750678c965d0fddeb4be",
        (
            "00208588b3516e0cc43073b2577362ff1b712373213043bcb0c7364c74bfc6f626e2"
            "00203534ac662cd4462172cdd0dbe3f0d0e28edb9e08484a3a34b8e8e00d9cb5b4c1"
        ),
    ),
    (
        "7ab6e4461509bc96e42de81b6ace267b70bea0ef280eea3b2739e424161bf0cb",
        (
            "0023000c000304600000000601000043001000030010002071f00a80dc755a5d1cf0276ab6991922eb30d8585ade524bc385056e84fe20a3"
            "00203b606eefdb63718d8d3e2c726b346471fad7ef02f66e4488d96d7afc77be55c6"
        ),
        "fc2c863f0418b5050f74493cfce81a27e5e89cb345f389b34035dbf8546c558d9fc0050b4456431457718fcc7bc31317",
        (
            "0020ac3f7d587b7decb2f6c2119b689e50b591d845a7c5fe93fe1788085631d8712e"
            "0020a8e12dfdfc22f5aaf21109ae1c69509ed60a29f3bc65f5e9c9c754808b500842"
        ),
    ),
    (
        "a0eb65a0d5c5d8ae3a0785fdce2aa9eb528ef10ca25716fc9e5bf206c63e76335df7c5fec044e869c241411af4ccd507",
        (
            "0023000c000304600000000600800043001000040010"
            "003000bbbc63d7afe86127176a72229a8e52820f1638a929d76bfbaa71dc2bf3c7cb27cbc7d480f58c736bd154bf99f444e200"
            "30c6d8b0d9d8f1992b247ce64f6a24a09ff5310677df04784a84b6324663c19da8b93ddd201d8e558adbb38d1da78efd9c"
        ),
        "b0490a3974276bb21851a32c3de58abfa17d82b84678395dfa93ab4ec054587411221f1c6564e329a0c47181e262d6b2",
        (
            "003052db424c78e89623edc972e7551ccb758f1cc64a336314012a5d23f0f6e828248a3c8404aa9aef749946bbcadf3ef91f"
            "00307e7c9428fe3050374fe0b7152f168845b3a13852db2b8015699181a3826fddf7347f14dc04fc42e4a9112321e9eb0b92"
        ),
    ),
    (
        "cad7c0d6c195e7a42f1adaa01274c310ca338a4a39928f0ebc0555266ec2a0c58bbb37d3532be12c608e8696f0189892",
        (
            "0023000d0003046000000006010000430010000400100030263ec562764ecba40ff55d47255cdcec2d09218be52ce8c129f692841c342583"
            "6ebb97baaf58350636cbdf9622e34b57003082b7dd26ad4f81c8e13b9f5d125844d53a44dd09e1e6bc115898f13939a6a562f724ea71ffc0"
            "cda1739dfe40050aab5d"
        ),
        (
            "7120d99ba70a8547873028dfa9446339cc6d40922d7ddf08c0907cc5cf7e8fb8"
            "3c708c3e672359ff55a624dc000e7cd42147dfbd2d633507dc912e25638a25b9"
        ),
        (
            "00304e5ae922a026528626560e25197ff29023e20b1a31c6b716036b8941241ae84cc627546d5ed721d808d5414d3edc6ded"
            "0030903dd41932f6f40a58ff86d713e56cbc774993aaac6c3249c34859dee6d2c28b6b5e3cae0ec3485f93a9ca057bae68c2"
        ),
    ),
]


@pytest.mark.parametrize(("scalar", "public", "shared", "secret"), ECC)
def test_salts_of_tpm_test_vectors_for_ecc(monkeypatch, scalar, public, shared, secret):
    private = int(scalar, 16) - 1  # what is drawn is a remainder, and one is added
    monkeypatch.setattr(salt, "urandom", Numbers(private.to_bytes(len(scalar) // 2, "big")))
    given, encrypted = salt.make_salt(bytes.fromhex(public))
    assert (given.hex(), encrypted.hex()) == (shared, secret)


# chrisfenner/tpm-test-vectors, vectors/rsa_labeled_encaps.json: 09, for a storage key with the label SECRET
RSA_PUBLIC = (
    "0001000b00030460000000060100004300100800000000000100"
    "803ba995d0ebfa3d9ee71e5b5e6dce4a4796821615d6dea9798d4057f8a9052fbaecc140d3bb856f3b201188d1c11a37017d8aa2e0a287f9"
    "9d14d33d2355d88882fa8c5cfe301cf8dd6f2abea48f545f3b5125feebd1689ef5ae72625f1d2b799ac97d59cbe2723edf1da283c752e737"
    "c121e04d539df69729b2b91c941e14be5a249d0f447a59953aad4f73de75000d22241c4d9fa1124667f1f6618bc79b01835e2f66ab4fb9fc"
    "b93bcdeca0816aa1f27453e4ab3dc336e4b2f6e0c70109adcfd206061689d9d370b22316e7184da765225fe2bf43a2810d6e2cc39ec98924"
    "b25ffbd893ff96e3de7422fccd8eb3f69fc51fe3031b81a06d6521724a51e4f3"
)
RSA_SALT = "ff246f60e2c6dc1a06e48ef34b4df79408cbe49ceaecd574d048adfc6afc0424"
RSA_SEED = "ee3d08eecd3251654e737ffdcfb90f6d0b915d8684c478b3d53fbc46ffea7600"
RSA_SECRET = (
    "4410ddcba8b460293c3f8ad661219f94900ede9a00d63260d02dda840f6005c556fcd041a5908504f87bc952f0ef8afba26a9d3668628d64"
    "dff492c1e15593dcab1be21d41d64e72b32a2861120b38b466555caed29aed71f5d9f1d8d36daf276a3d271ef28ffbe35ff5febdf4d3a3c9"
    "0405355aceeacd4793e9c49fc98c987a59e45d36f8a95b8d828d11fe7ba420e0f645f71f8dc4489b2432bceb77459617eca2b8256aa21081"
    "5cfb147ce0d8eda5673386217fd6307b18f17160a524b79548b3d598d84d9f92344238a9c1e31145f88a9b8897165088a6b40a873f7a9dcb"
    "9ca7a9e1915ff0cb334938d46abb8c8ffa33390898c74bd119d560a953219964"
)


def test_salts_of_tpm_test_vectors_for_rsa(monkeypatch):
    numbers = Numbers(bytes.fromhex(RSA_SALT), bytes.fromhex(RSA_SEED))
    monkeypatch.setattr(salt, "urandom", numbers)
    given, encrypted = salt.make_salt(bytes.fromhex(RSA_PUBLIC))
    assert (given.hex(), encrypted.hex()) == (RSA_SALT, RSA_SECRET)


def test_the_policy_of_the_users_pin():
    """As ESYS had it from swtpm 0.7: PolicyAuthValue and PolicyCommandCode(ObjectChangeAuth) in a trial session."""
    own, _ = policy.branches(template.so())
    assert own.hex() == "98cbaba62e682c148a202acad533d9d63f85a68392fe1b66648d1c491aef1b3a"


@pytest.fixture
def of_esapi(swtpm):
    """Names, session keys and parameters by the other implementation's own functions."""
    import tpm2_pytss as tss

    with tss.ESAPI(swtpm.tcti) as esapi:
        yield esapi, tss


@pytest.mark.parametrize("kind", ["ecc256", "rsa2048", "ecc384"])
@pytest.mark.parametrize("number", [0x0004, 0x000B, 0x000C, 0x000D])
def test_names_of_the_tpm(of_esapi, kind, number):
    esapi, tss = of_esapi
    public = tss.TPM2B_PUBLIC(tss.TPMT_PUBLIC.parse(kind + ":aes128cfb", nameAlg=number))
    public.publicArea.objectAttributes = tss.TPMA_OBJECT(0x30472)
    handle, made, *_ = esapi.create_primary(tss.TPM2B_SENSITIVE_CREATE(), public, tss.ESYS_TR.OWNER)
    assert name_of(made.publicArea.marshal()) == bytes(esapi.tr_get_name(handle))
    assert u16(number) in {u16(known) for known in HASHES}
    esapi.flush_context(handle)


def test_an_hmac_of_the_specifications_form():
    """The authorisation HMAC put together by hand from TPM 2.0 Part 1, clause 17.6.5, and by HmacSession."""
    import hmac

    opening = hmac_session.Opening(0x81000001, b"salt", b"secret")
    session = hmac_session.HmacSession(0x02000000, opening, b"n" * 32)
    session.begin(b"auth\0", hides=True, hidden=False)
    area = session.area(b"d" * 32)
    nonce = area[6:38]
    key = hmac.digest(b"salt", u32(1) + b"ATH\0" + b"n" * 32 + opening.nonce + u32(256), "sha256")
    code = hmac.digest(key + b"auth", b"d" * 32 + nonce + b"n" * 32 + b"\x21", "sha256")
    assert area == u32(0x02000000) + u16(32) + nonce + b"\x21" + u16(32) + code
