"""Tokens that are bound to the state of the machine, as a program sees them."""

import json
import subprocess

import pytest
from cryptoki import SO, USER, Rv
from keys import ec_pair

from conftest import CLI
from p11tpm.attribute import TRUE
from p11tpm.ck import CKA, CKF, CKM, CKO, CKR, CKU
from p11tpm.core.binding import Wish
from p11tpm.core.token import Token
from p11tpm.error import Error
from p11tpm.host.config import Config
from p11tpm.host.ending import Ending
from p11tpm.store import Store
from p11tpm.store.database import Database
from p11tpm.tpm.state import Signed
from rig.deadline import killed_after
from rig.process import write_secret
from rig.signing import PHASES, Image

PIN, SO_PIN = b"123456", b"so-secret"  # as in the fixtures
ERROR_STATE = 1 << 24  # CKF_ERROR_STATE: a self-test failed
CODE = "0123-4567-89ab-cdef-0123-4567-89ab-cdef"

LOGIN = [
    *("StartAuthSession", "GetRandom", "PolicyPCR", "PolicyAuthValue", "PolicyOR"),
    *("Load", "Unseal", "FlushContext"),
]
VERIFIED = ["PolicyGetDigest", "LoadExternal", "VerifySignature", "FlushContext", "PolicyAuthorize"]
REFUSED = ["StartAuthSession", "GetRandom", "PolicyPCR", "PolicyAuthValue", "PolicyOR", "FlushContext", "PCR_Read"]


class Owner:
    """The token of a store as the command line has it: it binds, seals and recovers."""

    def __init__(self, settings_of: Config) -> None:
        self.store = Store(settings_of.store)
        self.token = Token(settings_of, self.store, self.store.tokens()[0])

    def __getattr__(self, name):
        def run(*arguments, **options):
            try:
                return getattr(self.token, name)(*arguments, **options)
            finally:
                self.token.close(Ending())

        return run


@pytest.fixture
def swtpm(swtpm):
    """A machine that has measured something."""
    swtpm.extend(7, b"keys of the firmware")
    swtpm.extend(14, b"keys of the owner")
    return swtpm


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def settings(settings, tmp_path, log):
    (tmp_path / "p11tpm.conf").write_text(f"log = {log}\npcr-signature = {tmp_path / 'signatures.json'}\n")
    return settings


@pytest.fixture
def owner(token):
    assert token.slots()
    return Owner(Config.load())


@pytest.fixture
def bound(token, owner, proxy):
    """A run with a token that is bound to PCR 7 and 14; nobody is logged in."""
    owner.bind(PIN, Wish((7, 14), code=CODE))
    proxy.clear()
    return token


@pytest.fixture
def image(tmp_path, swtpm):
    """A signed image of a kernel, which has been booted."""
    image = Image(tmp_path)
    image.boot(swtpm)
    (tmp_path / "signatures.json").write_text(image.signatures(swtpm))
    return image


@pytest.fixture
def signed(token, owner, image, proxy):
    """A run with a token that is bound to what the image's key signs."""
    owner.bind(PIN, Wish((), Signed(image.public, (11,)), code=CODE))
    proxy.clear()
    return token


@pytest.fixture
def session(token):
    """A session in which nobody has logged in."""
    return token.open(token.slots()[0])


def refused(run, session, pin=PIN, user=USER):
    with pytest.raises(Rv) as caught:
        run.login(session, user, pin)
    assert caught.value == CKR.FUNCTION_FAILED


def private_key(run, session):
    return run.find(session, {CKA.CLASS: CKO.PRIVATE_KEY.to_bytes(8, "little")})[0]


# -- values of PCRs


def test_commands_of_a_bound_token(bound, session, proxy):
    slot = bound.slots()[0]
    bound.token_info(slot)
    assert proxy.names == []
    bound.login(session, USER, PIN)
    assert proxy.names == LOGIN
    ec_pair(bound, session)
    bound.logout(session)
    bound.login(session, USER, PIN)
    key = private_key(bound, session)
    proxy.clear()
    bound.sign(session, key, CKM.ECDSA, bytes(32))
    assert proxy.names == ["StartAuthSession", "Load", "Sign"], "the policy's session is used up"
    proxy.clear()
    bound.sign(session, key, CKM.ECDSA, bytes(32))
    assert proxy.names == ["Sign"]
    bound.logout(session)
    proxy.clear()
    bound.set_pin(session, PIN, b"another pin")
    assert len(proxy.names) == 7
    bound.login(session, SO, SO_PIN)
    proxy.clear()
    bound.init_pin(session, PIN)
    assert len(proxy.names) == 9
    bound.logout(session)
    bound.login(session, USER, PIN)


@pytest.mark.parametrize("pin", [PIN, b"wrong pin"])
def test_another_state_costs_no_try(bound, session, swtpm, proxy, log, pin):
    swtpm.extend(7, b"another key")
    for _ in range(4):  # the TPM locks out after three wrong values
        proxy.clear()
        refused(bound, session, pin)
        assert proxy.names == REFUSED
    assert swtpm.lockout_counter() == 0
    flags = bound.token_info(bound.slots()[0]).flags
    assert not flags & (CKF.USER_PIN_COUNT_LOW | CKF.USER_PIN_FINAL_TRY | CKF.USER_PIN_LOCKED | ERROR_STATE)
    assert (
        "is bound to PCR 7+14: PCR 7 is another; start the machine as before, or: p11tpm token recover"
        in log.read_text()
    )


def test_another_state_and_power_cuts_cost_no_try(bound, session, swtpm):
    swtpm.reboot()
    for _ in range(3):
        swtpm.extend(7, b"another key")
        refused(bound, session)
        swtpm.restart()
    assert swtpm.lockout_counter() == 0


def test_the_right_state_again(bound, session, swtpm):
    swtpm.restart()
    refused(bound, session)
    swtpm.extend(7, b"keys of the firmware")
    swtpm.extend(14, b"keys of the owner")
    bound.login(session, USER, PIN)


def test_a_wrong_pin_is_a_wrong_pin(bound, session, swtpm, proxy):
    with pytest.raises(Rv) as caught:
        bound.login(session, USER, b"wrong pin")
    assert caught.value == CKR.PIN_INCORRECT
    assert proxy.names == [*LOGIN, "FlushContext"]
    assert swtpm.lockout_counter() == 1
    bound.login(session, USER, PIN)
    assert bound.token_info(bound.slots()[0]).flags & CKF.USER_PIN_COUNT_LOW == 0


def test_in_a_lockout_another_state_still_says_so(bound, session, swtpm):
    for number in range(3):
        swtpm_try(swtpm, number)
    assert swtpm.property("LOCKOUT_COUNTER") >= 3
    swtpm.extend(7, b"another key")
    refused(bound, session)


def swtpm_try(swtpm, number):
    """Have another program try a wrong value on an object of its own."""
    directory = swtpm.directory
    if not number:
        swtpm.tool("createprimary", "-c", f"{directory}/primary")
        public, private = f"{directory}/public", f"{directory}/private"
        (directory / "secret").write_text("x")
        swtpm.tool(
            "create",
            "-C",
            f"{directory}/primary",
            "-p",
            "good",
            "-i",
            f"{directory}/secret",
            "-u",
            public,
            "-r",
            private,
        )
        swtpm.flush()
        swtpm.tool("load", "-C", f"{directory}/primary", "-u", public, "-r", private, "-c", f"{directory}/object")
        swtpm.flush()
    with pytest.raises(ChildProcessError):
        swtpm.tool("unseal", "-c", f"{directory}/object", "-p", "bad")
    swtpm.flush()


@pytest.mark.parametrize(("times", "answer"), [(1, CKR.OK), (9, CKR.OK), (10, CKR.OK), (11, CKR.DEVICE_ERROR)])
def test_pcrs_that_change_meanwhile(bound, session, swtpm, proxy, times, answer):
    """As IMA does it: any PCR counts (TPM_RC_PCR_CHANGED), and the policy begins again with the key still loaded."""
    left = [times]

    def change(request: bytes) -> None:
        if int.from_bytes(request[6:10], "big") == 0x15E and left[0]:
            left[0] -= 1
            swtpm.extend(10, b"a program")

    proxy.answer = change
    assert bound.raw.C_Login(session, USER, PIN, len(PIN)) == answer
    again = ["PolicyRestart", "PolicyPCR", "PolicyAuthValue", "PolicyOR", "Unseal"]
    assert proxy.names[: len(LOGIN) - 1] == LOGIN[:-1]
    assert proxy.names[len(LOGIN) - 1 :][: 5 * min(times, 10)] == again * min(times, 10)
    assert swtpm.lockout_counter() == 0


def test_the_state_is_asked_for_at_each_use_of_a_key_that_wants_the_pin(bound, session, swtpm):
    """CKA_ALWAYS_AUTHENTICATE: the login for one use opens the token anew."""
    bound.login(session, USER, PIN)
    _, key = ec_pair(bound, session, private={CKA.ALWAYS_AUTHENTICATE: TRUE})
    mechanism = bound.mechanism(CKM.ECDSA)
    bound.C_SignInit(session, mechanism, key)
    bound.login(session, CKU.CONTEXT_SPECIFIC, PIN)
    bound.C_SignInit(session, bound.ffi.NULL, key)
    swtpm.extend(14, b"more")
    bound.C_SignInit(session, mechanism, key)
    refused(bound, session, user=CKU.CONTEXT_SPECIFIC)


def test_the_pin_changes_in_any_state(bound, session, swtpm):
    swtpm.extend(7, b"another key")
    bound.set_pin(session, PIN, b"another pin")
    bound.login(session, SO, SO_PIN)
    bound.init_pin(session, b"third pin")
    bound.logout(session)
    swtpm.restart()
    swtpm.extend(7, b"keys of the firmware")
    swtpm.extend(14, b"keys of the owner")
    bound.login(session, USER, b"third pin")


def test_code_that_knows_no_policy_fails_closed(bound, session, owner, swtpm):
    """The object does not open by the PIN alone: it is the TPM that refuses (0x12F), and counts nothing."""
    owner.store.update_token(owner.store.tokens()[0], policy="")
    for pin in (PIN, b"wrong pin"):
        with pytest.raises(Rv) as caught:
            bound.login(session, USER, pin)
        assert caught.value == CKR.DEVICE_ERROR
    assert swtpm.lockout_counter() == 0


def test_a_token_that_is_made_anew_is_not_bound(bound, session, swtpm, log):
    bound.close(session)
    bound.init_token(bound.slots()[0], SO_PIN, "new")
    swtpm.extend(7, b"another key")
    session = bound.open(bound.slots()[0])
    bound.login(session, SO, SO_PIN)
    bound.init_pin(session, PIN)
    bound.logout(session)
    bound.login(session, USER, PIN)
    assert "is no longer bound to the machine's state" in log.read_text()


# -- sealing anew


def test_an_update_foreseen(bound, session, owner, swtpm):
    def start(*keys):
        swtpm.reboot()
        for pcr, event in zip((7, 14), keys, strict=True):
            swtpm.extend(pcr, event)

    start(b"keys after the update", b"keys of the owner")
    after = swtpm.pcr(7)
    start(b"keys of the firmware", b"keys of the owner")
    old = owner.store.tokens()[0]
    owner.reseal(PIN, [{7: after}])
    bound.login(session, USER, PIN)
    bound.logout(session)
    start(b"keys after the update", b"keys of the owner")
    bound.login(session, USER, PIN)
    bound.logout(session)
    owner.reseal(PIN)
    bound.login(session, USER, PIN)
    bound.logout(session)
    start(b"keys of the firmware", b"keys of the owner")
    refused(bound, session)
    # A copy of the store from before goes on opening: this is documented, and not prevented
    row = owner.store.tokens()[0]
    owner.store.update_token(row, policy=old.policy, user_public=old.user_public, user_private=old.user_private)
    bound.login(session, USER, PIN)


def test_recovery_in_a_third_state(bound, session, owner, swtpm):
    bound.login(session, USER, PIN)
    ec_pair(bound, session)
    bound.logout(session)
    swtpm.reboot()
    swtpm.extend(7, b"a new main board would be another TPM; this is a new firmware")
    swtpm.extend(14, b"keys of the owner")
    for wrong in ("", "0" * 32, CODE[:-1] + "0"):
        with pytest.raises(Error, match="the recovery code is wrong; nothing was changed"):
            owner.recover(wrong, b"new pin")
    assert swtpm.lockout_counter() == 0
    refused(bound, session)
    owner.recover(CODE.upper().replace("-", " "), b"new pin")
    bound.login(session, USER, b"new pin")
    assert bound.sign(session, private_key(bound, session), CKM.ECDSA, bytes(32))
    bound.logout(session)
    swtpm.extend(7, b"more")
    refused(bound, session, b"new pin")
    owner.recover(CODE, b"new pin", bound=False)
    bound.login(session, USER, b"new pin")
    with pytest.raises(Error, match="is not bound to anything"):
        owner.recover(CODE, b"new pin")


def test_unbinding_ends_the_recovery_code(bound, session, owner, swtpm):
    owner.bind(PIN, Wish())
    row = owner.store.tokens()[0]
    assert (row.policy, row.recovery_public, row.recovery_private, row.ticket) == ("", b"", b"", b"")
    swtpm.extend(7, b"another key")
    bound.login(session, USER, PIN)


@pytest.mark.parametrize("pcr", [5, 23])
def test_nothing_is_bound_to_what_nothing_is_measured_into(owner, pcr):
    before = owner.store.tokens()[0].values()
    with pytest.raises(Error, match=rf"PCR {pcr} \(sha256\) is all zeros: nothing is measured there"):
        owner.bind(PIN, Wish((7, pcr), code=CODE))
    with pytest.raises(Error, match=r"PCR 17 \(sha256\) is all ones"):
        owner.bind(PIN, Wish((17,), code=CODE))
    assert owner.store.tokens()[0].values() == before


def test_another_program_changed_the_pin_meanwhile(token, session, owner):
    """What was read before is not written over what another program has written since."""
    old = owner.store.tokens()[0]
    token.set_pin(session, PIN, b"another pin")
    with pytest.raises(Error, match="another program changed the token's PIN, or what it is bound to"):
        owner.store.update_token(old, user_private=old.user_private)
    token.login(session, USER, b"another pin")


def test_one_is_logged_in_while_another_process_binds_the_token(token, session, swtpm, tmp_path):
    """Without a resource manager: both have what they need in the TPM, one after the other."""
    token.login(session, USER, PIN)
    _, key = ec_pair(token, session)
    pin = write_secret(tmp_path / "pin", PIN.decode())
    with (
        subprocess.Popen(
            [CLI, "token", "bind", "--pcr", "7", "--pin-file", pin], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as command,
        killed_after(command.pid, 60),
    ):
        while command.poll() is None:
            token.sign(session, key, CKM.ECDSA, bytes(32))
        assert len(command.stdout.read().strip()) == len(CODE)
    assert command.returncode == 0
    swtpm.extend(7, b"another key")
    assert token.sign(session, key, CKM.ECDSA, bytes(32)), "a login is not ended by a change of PCRs"
    token.logout(session)
    refused(token, session)


# -- a token without PIN


def test_a_token_without_pin_opens_in_the_good_state_alone(bare, proxy, swtpm):
    config = Config.load()
    store = Store(config.store)
    made = Token.create(config, store, "service", None, None, Wish((7,), code=CODE))
    made.close(Ending())
    session = bare.open(bare.slots()[0])
    proxy.clear()
    _, key = ec_pair(bare, session)
    assert proxy.names[:7] == [name for name in LOGIN if name != "PolicyAuthValue"]
    assert bare.sign(session, key, CKM.ECDSA, bytes(32))
    bare.finalize()
    swtpm.extend(7, b"another key")
    bare.initialize()
    session = bare.open(bare.slots()[0])
    with pytest.raises(Rv) as caught:
        ec_pair(bare, session)
    assert caught.value == CKR.FUNCTION_FAILED
    made.recover(CODE, None)
    made.close(Ending())
    ec_pair(bare, session)


# -- values that a key signed


def test_commands_of_a_signed_state(signed, session, proxy, image, swtpm):
    login = [*LOGIN[:3], "PolicyAuthorize", *LOGIN[3:]]
    signed.login(session, USER, PIN)
    assert proxy.names == login
    signed.logout(session)
    image.enter(swtpm, PHASES[1])
    proxy.clear()
    signed.login(session, USER, PIN)
    assert proxy.names == [*LOGIN[:3], "PolicyAuthorize", *VERIFIED, *LOGIN[3:]]
    signed.logout(session)
    proxy.clear()
    signed.login(session, USER, PIN)
    assert proxy.names == login, "the ticket was kept"
    signed.logout(session)
    swtpm.extend(11, b"no phase of the image")
    proxy.clear()
    refused(signed, session)
    assert proxy.names == [*LOGIN[:3], "PolicyAuthorize", "PolicyGetDigest", "FlushContext"]


def test_a_new_kernel_needs_no_command(signed, session, image, swtpm, tmp_path, owner):
    new = Image(tmp_path, kernel=b"a new kernel\n", key=image.key)
    before = owner.store.tokens()[0]
    swtpm.restart()
    new.boot(swtpm)
    refused(signed, session)
    (tmp_path / "signatures.json").write_text(new.signatures(swtpm))
    signed.login(session, USER, PIN)
    after = owner.store.tokens()[0]
    assert {
        name
        for name in ("policy", "user_private", "recovery_private", "ticket")
        if getattr(before, name) != getattr(after, name)
    } == {"ticket"}


def test_both_kinds_at_once(token, session, owner, image, swtpm, proxy):
    owner.bind(PIN, Wish((7,), Signed(image.public, (11,)), code=CODE))
    proxy.clear()
    token.login(session, USER, PIN)
    assert proxy.names == [*LOGIN[:3], "PolicyAuthorize", "PolicyPCR", *LOGIN[3:]]
    token.logout(session)
    swtpm.extend(7, b"another key")
    refused(token, session)


def test_a_ticket_of_a_tpm_that_was_cleared_or_forged_is_as_none(signed, owner, proxy):
    row = owner.store.tokens()[0]
    for ticket in (row.ticket[:-1] + bytes((row.ticket[-1] ^ 1,)), row.ticket[:32] + b"no ticket", b"short", b""):
        owner.store.update_token(owner.store.tokens()[0], ticket=ticket)
        signed.finalize()
        signed.initialize()
        again = signed.open(signed.slots()[0])
        proxy.clear()
        signed.login(again, USER, PIN)
        assert proxy.names[-len(VERIFIED) - 5 : -5] == VERIFIED
        signed.logout(again)
        assert owner.store.tokens()[0].ticket == row.ticket


def test_a_store_that_may_only_be_read_keeps_its_ticket(signed, owner, image, swtpm, proxy, monkeypatch):
    """The process keeps the new one."""
    before = owner.store.tokens()[0].ticket
    monkeypatch.setattr(Database, "writable", False)
    image.enter(swtpm, PHASES[1])
    owner.login(USER, PIN)
    proxy.clear()
    owner.login(USER, PIN)
    assert proxy.names == [*LOGIN[:3], "PolicyAuthorize", *LOGIN[3:]]
    assert owner.store.tokens()[0].ticket == before
    assert signed.slots()


def damaged(change):
    def write(path, text):
        entries = json.loads(text)
        change(entries["sha256"])
        path.write_text(json.dumps(entries))

    return write


def each(**fields):
    return damaged(lambda entries: [entry.update(fields) for entry in entries])


FILES = {
    "no file": (lambda path, _: path.unlink(), "No such file or directory: this kernel is not from a signed image"),
    "a directory": (lambda path, _: (path.unlink(), path.mkdir()), "it is not systemd's"),
    "garbage": (lambda path, _: path.write_bytes(bytes(range(256)) * 4096), "it is not systemd's"),
    "too long": (lambda path, text: path.write_text(text + " " * (1 << 20)), "it is not systemd's"),
    "deep": (lambda path, _: path.write_text("[" * 100_000), "it is not systemd's"),
    "a list": (lambda path, _: path.write_text("[]"), "it is not systemd's"),
    "other banks": (
        lambda path, text: path.write_text(text.replace('"sha256"', '"sha384"')),
        "no signatures for the bank",
    ),
    "numbers": (
        lambda path, _: path.write_text('{"sha256": [1, null, {"pkfp": 5, "pol": []}]}'),
        "it has none by that key",
    ),
    "no entries": (lambda path, _: path.write_text('{"sha256": 5}'), "it has none by that key"),
    "another key": (each(pkfp="00" * 32), "it has none by that key"),
    "other values": (each(pol="00" * 32), "there are 4 for other phases or kernels"),
    "with a text": (each(ref="another"), "it has none by that key"),
    "no signature": (each(sig="%%%"), "for the present state is good"),
    "a damaged one": (each(sig="AAAA"), "for the present state is good"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_signatures_that_does_not_help(signed, session, owner, tmp_path, swtpm, log, name):
    change, why = FILES[name]
    owner.store.update_token(owner.store.tokens()[0], ticket=b"")
    signed.finalize()
    signed.initialize()
    session = signed.open(signed.slots()[0])
    path = tmp_path / "signatures.json"
    text = path.read_text()
    change(path, text)
    refused(signed, session)
    assert why in log.read_text()
    assert swtpm.lockout_counter() == 0


def test_a_signature_with_a_text(token, session, owner, image, swtpm, tmp_path):
    """As systemd signs with --policy-ref: the digest of the text is signed behind the policy."""
    entry = image.entry(swtpm.pcr(11), ref="ours")
    (tmp_path / "signatures.json").write_text(json.dumps({"sha256": [entry]}))
    owner.bind(PIN, Wish((), Signed(image.public, (11,), "ours"), code=CODE))
    token.login(session, USER, PIN)
    token.logout(session)
    with pytest.raises(Error, match="it has none by that key"):
        owner.bind(PIN, Wish((), Signed(image.public, (11,)), code=CODE))


def test_a_key_that_the_tpm_does_not_take(owner, tmp_path, swtpm):
    image = Image(tmp_path, bits=4096)
    (tmp_path / "signatures.json").write_text(json.dumps({"sha256": [image.entry(swtpm.pcr(11))]}))
    with pytest.raises(Error, match=r"this TPM does not take a key of that size .*: sign with RSA-2048"):
        owner.bind(PIN, Wish((), Signed(image.public, (11,)), code=CODE))


def test_the_referee_opens_in_the_same_states(signed, session, image, swtpm, tmp_path):
    """systemd-creds on the same TPM, with the same file of signatures."""
    secret, sealed = tmp_path / "secret", tmp_path / "sealed"
    secret.write_text("secret")

    def creds(*arguments):
        command = ["/usr/bin/systemd-creds", *map(str, arguments), "--name=x", f"--tpm2-device={swtpm.tcti}"]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        finally:
            swtpm.flush()

    def opens():
        done = creds(f"--tpm2-signature={tmp_path / 'signatures.json'}", "decrypt", sealed, "-")
        answer = signed.raw.C_Login(session, USER, PIN, len(PIN))
        if answer == CKR.OK:
            signed.logout(session)
        return done.returncode == 0 and done.stdout == "secret", answer

    key = ("--with-key=tpm2-with-public-key", f"--tpm2-public-key={image.public_file}", "--tpm2-public-key-pcrs=11")
    done = creds(*key, "encrypt", secret, sealed)
    assert done.returncode == 0, done.stderr
    for phase in PHASES[1:]:
        assert opens() == (True, CKR.OK)
        image.enter(swtpm, phase)
    assert opens() == (True, CKR.OK)
    swtpm.extend(11, b"one more")
    assert opens() == (False, CKR.FUNCTION_FAILED)
