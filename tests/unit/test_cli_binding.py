"""The commands that bind a token to the state of the machine, on a real, if simulated, TPM."""

import json
import re

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from command import failed, good
from conftest import CLI, USER_PIN
from p11tpm.cli import binding
from p11tpm.error import Error
from rig import write_secret
from rig.signing import PHASES, Image
from rig.terminal import Terminal

CODE = re.compile(r"^(?:[0-9a-f]{4}-){7}[0-9a-f]{4}$", re.MULTILINE)
SHOWN = "p11tpm: this recovery code gives the token back in any other state."
NEW_PIN = "new-pin"


@pytest.fixture
def swtpm(swtpm):
    """A machine that has measured something."""
    swtpm.extend(7, b"keys of the firmware")
    swtpm.extend(14, b"keys of the owner")
    return swtpm


@pytest.fixture
def cli(p11tpm_cli, pin_file):
    """The command with a token and a first key."""
    good(p11tpm_cli("init", "--pin-file", pin_file))
    return p11tpm_cli


def shown(done) -> str:
    """The recovery code that a command printed, once."""
    assert done.returncode == 0, done
    assert SHOWN in done.stderr
    (code,) = CODE.findall(done.stdout)
    assert code not in done.stderr
    return code


def opens(cli, pin_file, label="another"):
    """Whether a key can be made, for which the token has to be opened."""
    done = cli("key", "generate", "--label", label, "--pin-file", pin_file)
    assert "Traceback" not in done.stderr
    return done.returncode == 0 and good(cli("key", "delete", label, "--yes", "--pin-file", pin_file)) == ""


@pytest.fixture
def bound(cli, pin_file):
    """The command with a token that is bound to PCR 7 and 14; its recovery code is `code`."""
    cli.code = shown(cli("token", "bind", "--pcr", "7+14", "--pin-file", pin_file))
    return cli


@pytest.fixture
def new_pin_file(tmp_path):
    return write_secret(tmp_path / "new-pin", NEW_PIN + "\n")


def listed(cli):
    (one,) = json.loads(good(cli("token", "list", "--json")))
    return one


def found(cli, about):
    done = cli("doctor", "--json")
    assert done.stderr == ""
    return [(one["state"], one["text"], one["remedy"]) for one in json.loads(done.stdout) if one["about"] == about]


def test_from_the_first_command_to_recovery(bound, pin_file, new_pin_file, swtpm, tmp_path):
    assert opens(bound, pin_file)
    assert "bound to PCR 7+14" in good(bound("token", "list"))
    swtpm.extend(7, b"another key")
    failed(
        bound("key", "generate", "--label", "x", "--pin-file", pin_file),
        r"token 'p11tpm' is bound to PCR 7\+14: PCR 7 is another; start the machine as before, or: p11tpm token rec",
    )
    for noun in ("token", "key"):
        assert "bound to PCR 7+14: shut now" in good(bound(noun, "list"))
    code = write_secret(tmp_path / "code", "0" * 32 + "\n")
    recover = ("token", "recover", "--recovery-file", code, "--pin-file", new_pin_file)
    failed(bound(*recover), "the recovery code is wrong; nothing was changed")
    write_secret(code, bound.code + "\n")
    assert good(bound(*recover)) == ""
    assert opens(bound, new_pin_file)
    failed(bound("key", "generate", "--label", "x", "--pin-file", pin_file), "the PIN is wrong")
    assert swtpm.lockout_counter() == 1


def test_a_code_is_typed(bound, host_env, swtpm):
    swtpm.extend(7, b"another key")
    terminal = Terminal([CLI, "token", "recover"], host_env())
    for question, answer in (
        ("Recovery code of token 'p11tpm': ", bound.code),
        ("New PIN: ", NEW_PIN),
        ("PIN again: ", NEW_PIN),
    ):
        assert terminal.shows(question)
        terminal.type_secret(answer)
    assert terminal.end() == 0
    assert bound.code not in terminal.seen


def test_bound_from_the_beginning(p11tpm_cli, pin_file, swtpm):
    done = p11tpm_cli("init", "--pcr", "7", "--pin-file", pin_file)
    shown(done)
    assert "ssh -I" in done.stdout
    failed(p11tpm_cli("token", "create", "--label", "two", "--pcr", "5", "--pin-file", pin_file), "PCR 5 .* all zeros")
    done = p11tpm_cli("token", "create", "--label", "service", "--no-pin", "--pcr", "14", "--no-recovery")
    assert (done.returncode, CODE.findall(done.stdout)) == (0, [])
    good(p11tpm_cli("key", "generate", "--label", "a", "--token", "service"))
    swtpm.extend(14, b"another owner")
    done = p11tpm_cli("key", "generate", "--label", "b", "--token", "service")
    failed(done, "token 'service' is bound to PCR 14: PCR 14 is another; start the machine as before$")
    assert opens(p11tpm_cli, pin_file)


def test_an_update_that_is_foreseen(bound, pin_file, swtpm, tmp_path):
    swtpm.reboot()
    swtpm.extend(7, b"keys after the update")
    after = swtpm.pcr(7).hex()
    swtpm.reboot()
    swtpm.extend(7, b"keys of the firmware")
    swtpm.extend(14, b"keys of the owner")
    lines = f"# what the tool says\n7:sha1={'00' * 20}\n7:sha256={after}\n\n"
    reseal = ("token", "reseal", "--pin-file", pin_file)
    assert good(bound(*reseal, "--next", "-", input=lines)) == ""
    assert [one["pcrs"]["7"] for one in listed(bound)["policy"]["states"]][1] == after
    assert ("note", "opens in 2 states", "after the update, drop the old ones: p11tpm token reseal 'p11tpm'") in found(
        bound, "token 'p11tpm'"
    )
    swtpm.reboot()
    swtpm.extend(7, b"keys after the update")
    swtpm.extend(14, b"keys of the owner")
    assert opens(bound, pin_file)
    assert good(bound(*reseal)) == ""
    assert len(listed(bound)["policy"]["states"]) == 1
    file = tmp_path / "values"
    for text, why in (
        ("", "has no value of a PCR in the bank of SHA-256"),
        ("7:sha256=00", "values:1: it has no value of a PCR: write lines such as 11:sha256=HEX"),
        ("# x\nsecret", "values:2: it has no value of a PCR"),
        (f"24:sha256={'00' * 32}", "values:1: it has no value"),
        (f"11:sha256={'00' * 32}", r"is bound only to 7\+14, not to PCR 11"),
        ("\n".join(f"7:sha256={number:064x}" for number in range(6)), "7 states, with the present one"),
    ):
        file.write_text(text)
        failed(bound(*reseal, "--next", file), why)
    assert len(listed(bound)["policy"]["states"]) == 1


def test_values_as_systemd_prints_them(cli, pin_file, swtpm, tmp_path):
    image = Image(tmp_path)
    image.boot(swtpm)
    shown(cli("token", "bind", "--pcr", "11", "--pin-file", pin_file))
    good(cli("token", "reseal", "--next", "-", "--pin-file", pin_file, input=image.values()))
    for phase in PHASES[1:]:
        image.enter(swtpm, phase)
        assert opens(cli, pin_file), phase
    swtpm.extend(11, b"no phase")
    assert not opens(cli, pin_file)


def test_unbinding(bound, pin_file, swtpm):
    failed(bound("token", "unbind", "--pin-file", pin_file), "Nobody is there to confirm it: add --yes", code=2)
    assert good(bound("token", "unbind", "--yes", "--pin-file", pin_file)) == ""
    assert listed(bound)["policy"] is None
    swtpm.extend(7, b"another key")
    assert opens(bound, pin_file)
    for command in ("unbind", "reseal", "recover"):
        yes = ["--yes"] if command == "unbind" else []
        failed(
            bound("token", command, *yes, "--pin-file", pin_file), "is not bound to anything: 'p11tpm token bind' does"
        )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "Say what to bind to: --pcr, --signed-pcr, or both"),
        (["--pcr", "x"], "write numbers from 0 to 23, such as 7"),
        (["--pcr", "24"], "write numbers from 0 to 23"),
        (["--pcr", "7", "--pcr-ref", "x"], "--pcr-key and --pcr-ref go with --signed-pcr"),
        (["--no-recovery"], "--no-recovery goes with --pcr or --signed-pcr"),
        (["--pcr", "7+11", "--signed-pcr", "11"], "name the same PCR"),
    ],
)
def test_wrong_usage(cli, pin_file, options, why):
    failed(cli("token", "bind", *options, "--pin-file", pin_file), why, code=2)


def test_a_signed_kernel(cli, pin_file, swtpm, tmp_path, host_env):
    image = Image(tmp_path)
    image.boot(swtpm)
    signatures = tmp_path / "signatures.json"
    write_secret(tmp_path / "p11tpm.conf", f"pcr-signature = {signatures}\n")
    env = {**host_env(), "P11TPM_CONF": str(write_secret(tmp_path / "own.conf", f"pcr-signature = {signatures}\n"))}

    def run(*arguments, **options):
        return cli(*arguments, env=env, **options)

    bind = ("token", "bind", "--signed-pcr", "11", "--pcr-key", image.public_file, "--pin-file", pin_file)
    failed(run(*bind), "signatures.json: No such file or directory: this kernel is not from a signed image")
    signatures.write_text(image.signatures(swtpm))
    shown(run(*bind))
    assert opens(run, pin_file)
    assert ("ok", "bound to signed PCR 11, and opens now", "") in found(run, "token 'p11tpm'")
    policy = listed(run)["policy"]
    assert policy["recovery"] is True
    assert policy["states"][0]["signed"]["pcrs"] == [11]
    assert policy["states"][0]["signed"]["key"] == json.loads(signatures.read_text())["sha256"][0]["pkfp"]
    swtpm.extend(11, b"no phase")
    _, text, remedy = next(one for one in found(run, "token 'p11tpm'") if one[0] == "wrong")
    assert "there are 4 for other phases or kernels" in text
    assert remedy == "start a kernel that this key has signed, or: p11tpm token recover 'p11tpm'"
    assert not opens(run, pin_file)


@pytest.mark.parametrize("content", [b"", b"no PEM\n", b"\xff", "an EC key"])
def test_a_key_that_is_no_rsa_key(cli, pin_file, tmp_path, content):
    if content == "an EC key":
        public = ec.generate_private_key(ec.SECP256R1()).public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        content = public.public_bytes(serialization.Encoding.PEM, form)
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    bind = ("token", "bind", "--signed-pcr", "11", "--pin-file", pin_file, "--pcr-key")
    failed(cli(*bind, path), "key.pem: not an RSA public key in PEM")
    failed(cli(*bind, tmp_path / "none"), "none: No such file or directory")


def test_a_machine_without_a_signed_image(monkeypatch, tmp_path):
    monkeypatch.setattr(binding, "PLACES", (str(tmp_path),))
    with pytest.raises(
        Error, match=r"there is no .*/tpm2-pcr-public-key.pem: .*; name the key that signs by --pcr-key"
    ):
        binding.signed_by((11,), None, "")


def test_the_doctor_says_what_will_end_a_binding(cli, pin_file, swtpm):
    swtpm.extend(0, b"firmware")
    assert good(cli("token", "bind", "--pcr", "0+7", "--no-recovery", "--pin-file", pin_file)) == ""
    about = found(cli, "token 'p11tpm'")
    assert ("ok", "bound to PCR 0+7, and opens now", "") in about
    notes = [text for state, text, _ in about if state == "note"]
    assert "bound without a recovery code: after a change of the machine its keys are lost" in notes
    assert "bound to PCR 0: an update of the firmware ends that" in notes
    swtpm.extend(7, b"another key")
    wrong = [one for one in found(cli, "token 'p11tpm'") if one[0] == "wrong"]
    assert wrong == [
        ("wrong", "bound to PCR 0+7, and does not open now: PCR 7 is another", "start the machine as before")
    ]


def test_tokens_of_one_store_are_bound_each_for_itself(bound, pin_file, swtpm):
    assert bound("token", "create", "--label", "free", "--pin-file", pin_file).returncode == 0
    swtpm.extend(7, b"another key")
    good(bound("key", "generate", "--label", "a", "--token", "free", "--pin-file", pin_file))
    assert not opens(bound, pin_file)


def test_nothing_of_the_code_is_left_in_the_store_or_the_log(bound, store, tmp_path):
    for path in (*store.iterdir(), *tmp_path.glob("*.log")):
        content = path.read_bytes()
        assert bound.code.encode() not in content
        assert bound.code.replace("-", "").encode() not in content
        assert USER_PIN.encode() not in content


# -- keys with an end


def described(cli, label):
    return next(one for one in json.loads(good(cli("key", "list", "--json"))) if one["label"] == label)


def test_keys_with_an_end(cli, pin_file, swtpm):
    def generate(label, *options):
        return cli("key", "generate", "--label", label, *options, "--pin-file", pin_file)

    assert good(generate("boot", "--this-boot")).startswith("pkcs11:")
    assert good(generate("hours", "--valid-for", "8h", "--algorithm", "rsa2048")).startswith("pkcs11:")
    assert described(cli, "boot")["limits"] == "works for one boot"
    hours = described(cli, "hours")["limits"]
    assert re.fullmatch(r"works for one boot, a time until 20\d\d-\d\d-\d\d at the latest", hours)
    assert described(cli, "ssh")["limits"] is None
    assert "works for one boot" in good(cli("key", "list"))
    for wrong in ("8", "h", "0h", "-1h", "8w", "1.5h", "1000000d"):
        failed(generate("x", "--valid-for", wrong), "write a number and s, m, h or d, such as 8h", code=2)
    failed(generate("x", "--pcr-ref", "x"), "--pcr-key and --pcr-ref go with --signed-pcr", code=2)
    swtpm.reboot()
    assert "works for one boot" in good(cli("key", "list"))
    assert good(cli("key", "delete", "boot", "--yes", "--pin-file", pin_file)) == ""
