"""Keys with a policy of their own, which the TPM asks for at each use."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptoki import USER, Rv
from keys import ec_pair, public_key, rsa_pair, verify_ecdsa

from p11tpm.attribute import FALSE, TRUE
from p11tpm.ck import CKA, CKM, CKR
from p11tpm.core.token import Token
from p11tpm.host.config import Config
from p11tpm.host.ending import Ending
from p11tpm.store import Store
from p11tpm.tpm import policy, state, template
from p11tpm.tpm.state import Signed, States
from rig.signing import PHASES, Image

PIN = b"123456"
CONDITION = ["PolicyCounterTimer", "PolicyAuthValue"]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def settings(settings, tmp_path, log):
    (tmp_path / "p11tpm.conf").write_text(f"log = {log}\npcr-signature = {tmp_path / 'signatures.json'}\n")
    return settings


def time(swtpm) -> dict[str, int]:
    """What the TPM counts."""
    words = swtpm.tool("readclock").replace(":", " ").split()
    return {name: int(words[words.index(name) + 1]) for name in ("clock", "reset_count")}


def conditioned(text):
    return {CKA.P11TPM_POLICY: str(text).encode()}


@pytest.fixture
def this_boot(token, session, swtpm):
    """A pair that works in this boot."""
    states = States(reset=time(swtpm)["reset_count"])
    return ec_pair(token, session, private=conditioned(states))


def again(run) -> int:
    """A new run, in which the user is logged in and nothing is loaded."""
    run.finalize()
    run.initialize()
    session = run.open(run.slots()[0])
    run.login(session, USER, PIN)
    return session


def key_of(run, session, label=b"key"):
    return run.find(session, {CKA.CLASS: (3).to_bytes(8, "little"), CKA.LABEL: label})[0]


def refused(run, session, key, mechanism=CKM.ECDSA):
    with pytest.raises(Rv) as caught:
        run.sign(session, key, mechanism, bytes(32))
    assert caught.value == CKR.FUNCTION_FAILED


def test_commands_of_a_key_of_this_boot(token, this_boot, proxy):
    session = again(token)
    key = key_of(token, session)
    proxy.clear()
    token.sign(session, key, CKM.ECDSA, bytes(32))
    assert proxy.names == ["StartAuthSession", "Load", *CONDITION, "Sign"], "the session of the login loads the key"
    proxy.clear()
    token.sign(session, key, CKM.ECDSA, bytes(32))
    assert proxy.names == [*CONDITION, "Sign"]
    signature = token.sign(session, key, CKM.ECDSA_SHA256, b"text")
    verify_ecdsa(public_key(token, session, this_boot[0]), signature, b"text", "sha256")


def test_the_next_boot_ends_it(token, session, this_boot, swtpm, log, proxy):
    token.sign(session, this_boot[1], CKM.ECDSA, bytes(32))
    token.finalize()
    swtpm.reboot()
    token.initialize()
    session = token.open(token.slots()[0])
    token.login(session, USER, PIN)
    for _ in range(2):
        proxy.clear()
        refused(token, session, key_of(token, session))
        assert proxy.names.count("PolicyCounterTimer") == 1, "it is not tried again"
    assert "the key is bound to one boot: its time is over, and it never works again" in log.read_text()
    assert swtpm.lockout_counter() == 0
    _, other = ec_pair(token, session, label=b"other", id_=b"\2")
    token.sign(session, other, CKM.ECDSA, bytes(32))


def test_a_time_ends_it(token, session, swtpm):
    now = time(swtpm)
    over = States(reset=now["reset_count"], clock=now["clock"] + 1)
    _, key = ec_pair(token, session, private=conditioned(over))
    refused(token, session, key)
    states = States(reset=now["reset_count"], clock=now["clock"] + 3_600_000)
    _, key = ec_pair(token, session, label=b"hour", id_=b"\2", private=conditioned(states))
    assert token.sign(session, key, CKM.ECDSA, bytes(32))


def test_rsa_decrypts_and_signs(token, session, swtpm):
    states = States(reset=time(swtpm)["reset_count"])
    named = {CKA.TOKEN: TRUE, CKA.LABEL: b"rsa", CKA.ID: b"\2"}
    public, key = token.generate_pair(
        session,
        CKM.RSA_PKCS_KEY_PAIR_GEN,
        {**named, CKA.MODULUS_BITS: (2048).to_bytes(8, "little")},
        {**named, **conditioned(states)},
    )
    sent = public_key(token, session, public).encrypt(b"secret", padding.PKCS1v15())
    for _ in range(2):
        assert token.crypt("Decrypt", session, key, CKM.RSA_PKCS, sent) == b"secret"
    assert token.sign(session, key, CKM.SHA256_RSA_PKCS, b"text")
    _, plain = rsa_pair(token, session, id_=b"\3")
    assert token.sign(session, plain, CKM.SHA256_RSA_PKCS, b"text")
    assert swtpm.loaded()


def test_a_key_with_an_authority_of_its_own(token, session, swtpm, tmp_path, proxy):
    image = Image(tmp_path)
    image.boot(swtpm)
    signatures = tmp_path / "signatures.json"
    signatures.write_text(image.signatures(swtpm))
    _, key = ec_pair(token, session, private=conditioned(States(Signed(image.public, (11,)))))
    verified = ["PolicyGetDigest", "LoadExternal", "VerifySignature", "FlushContext"]
    proxy.clear()
    token.sign(session, key, CKM.ECDSA, bytes(32))
    assert [name for name in proxy.names if name in verified] == verified
    proxy.clear()
    token.sign(session, key, CKM.ECDSA, bytes(32))
    assert proxy.names == ["PolicyPCR", "PolicyAuthorize", "PolicyAuthValue", "Sign"]
    image.enter(swtpm, PHASES[1])
    token.sign(session, key, CKM.ECDSA, bytes(32))
    swtpm.extend(11, b"no phase")
    refused(token, session, key)
    signatures.write_text(json.dumps({"sha256": [image.entry(swtpm.pcr(11))]}))
    token.sign(session, key, CKM.ECDSA, bytes(32))


def test_pcrs_that_change_meanwhile(token, session, swtpm, tmp_path, proxy):
    image = Image(tmp_path)
    image.boot(swtpm)
    (tmp_path / "signatures.json").write_text(image.signatures(swtpm))
    _, key = ec_pair(token, session, private=conditioned(States(Signed(image.public, (11,)))))
    left = [3]

    def change(request: bytes) -> None:
        if int.from_bytes(request[6:10], "big") == 0x15D and left[0]:
            left[0] -= 1
            swtpm.extend(10, b"a program")

    proxy.answer = change
    assert token.sign(session, key, CKM.ECDSA, bytes(32))
    assert proxy.names.count("PolicyRestart") == 3


def test_a_copy_has_the_same_end(token, session, this_boot, swtpm):
    copy = token.ulong()
    token.C_CopyObject(session, this_boot[1], *token.template({CKA.LABEL: b"copy"}), copy)
    assert token.get(session, copy[0], CKA.P11TPM_POLICY) == token.get(session, this_boot[1], CKA.P11TPM_POLICY)
    token.sign(session, copy[0], CKM.ECDSA, bytes(32))
    swtpm.reboot()
    for label in (b"copy", b"key"):
        refused(token, session, key_of(token, session, label))


def test_a_resident_key_has_the_same_end(token, session, this_boot, swtpm, proxy):
    assert this_boot
    token.close(session)
    token.finalize()
    config = Config.load()
    store = Store(config.store)
    owner = Token(config, store, store.tokens()[0])
    owner.login(USER, PIN)
    owner.keep_resident(this_boot_id(store))
    owner.close(Ending())
    token.initialize()
    session = token.open(token.slots()[0])
    token.login(session, USER, PIN)
    key = key_of(token, session)
    proxy.clear()
    token.sign(session, key, CKM.ECDSA, bytes(32))
    assert proxy.names == ["StartAuthSession", *CONDITION, "Sign"]
    (handle,) = set(swtpm.persistent()) - {"0x81000001"}
    swtpm.tool("evictcontrol", "-c", handle)
    token.sign(session, key, CKM.ECDSA, bytes(32))
    swtpm.reboot()
    refused(token, session, key)


def this_boot_id(store) -> int:
    (found,) = store.find(1, {CKA.CLASS: (3).to_bytes(8, "little"), CKA.LABEL: b"key"}, {})
    return found


def test_the_attribute_is_read_and_never_changed(token, session, this_boot):
    _, key = this_boot
    text = token.get(session, key, CKA.P11TPM_POLICY)
    assert text.startswith(b"reset=")
    with pytest.raises(Rv) as caught:
        token.set(session, key, {CKA.P11TPM_POLICY: b"reset=1"})
    assert caught.value == CKR.ATTRIBUTE_READ_ONLY
    _, other = ec_pair(token, session, label=b"other", id_=b"\2")
    with pytest.raises(Rv) as caught:
        token.get(session, other, CKA.P11TPM_POLICY)
    assert caught.value == CKR.ATTRIBUTE_TYPE_INVALID


@pytest.mark.parametrize(
    ("text", "more", "answer"),
    [
        (b"", {}, CKR.ATTRIBUTE_VALUE_INVALID),
        (b"reset=x", {}, CKR.ATTRIBUTE_VALUE_INVALID),
        (b"reset=4294967296", {}, CKR.ATTRIBUTE_VALUE_INVALID),
        (b"reset=1\nreset=2", {}, CKR.ATTRIBUTE_VALUE_INVALID),
        (b"\xff", {}, CKR.ATTRIBUTE_VALUE_INVALID),
        (b"pcr=7:" + b"11" * 32, {}, CKR.ATTRIBUTE_VALUE_INVALID),
        (b"reset=1", {CKA.TOKEN: FALSE, CKA.EXTRACTABLE: TRUE}, CKR.TEMPLATE_INCONSISTENT),
    ],
)
def test_what_a_key_cannot_be_bound_to(token, session, text, more, answer):
    before = len(token.find(session, {}))
    with pytest.raises(Rv) as caught:
        ec_pair(token, session, private={CKA.P11TPM_POLICY: text, **more})
    assert caught.value == answer
    assert len(token.find(session, {})) == before


def test_the_digest_is_the_tpms(swtpm, tmp_path):
    """tpm2-tools come to the same policy."""
    context, digest = tmp_path / "session", tmp_path / "digest"
    swtpm.tool("startauthsession", "-S", str(context))
    swtpm.tool("policycountertimer", "-S", str(context), "-L", str(digest), "--eq", "resets=7")
    states = States(reset=7)
    assert digest.read_bytes() == states.digests(pin=False)[0]
    swtpm.tool("flushcontext", str(context))
    assert state.States.parse(str(states)).digests(pin=True) == (policy.auth_value(digest.read_bytes()),)
    assert template.with_policy(template.ec("p256"), bytes(32))[8:10] == b"\0\x20"
