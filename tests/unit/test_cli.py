"""The real command on a real, if simulated, TPM."""

import json
import os
import re
import shlex
import signal
import sqlite3
import stat
import subprocess
import threading
from contextlib import contextmanager

import click
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

from command import failed, good
from conftest import CLI, SO_PIN, USER_PIN
from p11tpm.attribute import ulong
from p11tpm.ck import CKA, CKO
from p11tpm.cli.root import p11tpm
from rig import write_secret
from rig.proxy import Command
from rig.terminal import Terminal

CTRL_C = "\x03"


@pytest.fixture
def cli(p11tpm_cli, pin_file, so_pin_file):
    """The command with a token and a first key."""
    good(p11tpm_cli("init", "--pin-file", pin_file, "--so-pin-file", so_pin_file))
    return p11tpm_cli


@pytest.fixture
def free(p11tpm_cli):
    """The command with a token without PIN, and a first key."""
    good(p11tpm_cli("init", "--no-pin"))
    return p11tpm_cli


def commands(group=p11tpm, name="p11tpm"):
    yield name, group
    if isinstance(group, click.Group):
        for word, command in group.commands.items():
            yield from commands(command, f"{name} {word}")


# -- help


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_help_teaches_by_example(name):
    done = CliRunner().invoke(p11tpm, [*name.split()[1:], "--help"], prog_name="p11tpm")
    assert done.exit_code == 0
    examples = done.output.split("  Example:\n")[1]
    assert re.search(rf"^    (ssh -I \"\$\()?{name}\b", examples, re.MULTILINE), examples


def test_every_option_says_what_it_is_for():
    silent = [
        (name, option.name)
        for name, command in commands()
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert silent == []


def test_no_option_takes_a_secret():
    takers = {option for _, command in commands() for parameter in command.params for option in parameter.opts}
    assert {"--pin-file", "--so-pin-file", "--no-pin"} == {option for option in takers if "pin" in option}


def test_wrong_usage_is_2(p11tpm_cli):
    failed(p11tpm_cli("kye"), "No such command", 2)
    failed(p11tpm_cli("key", "generate"), "Missing option '--label'", 2)
    failed(p11tpm_cli("init", "--no-pin", "--pin-file", "/dev/null"), "contradict", 2)


# -- init


def test_init_makes_a_token_with_a_key_and_says_what_to_do_next(p11tpm_cli, pin_file, so_pin_file, store, module_path):
    said = good(p11tpm_cli("init", "--pin-file", pin_file, "--so-pin-file", so_pin_file))
    keys = json.loads(good(p11tpm_cli("key", "list", "--json")))
    assert [(key["label"], key["algorithm"], key["in_tpm"]) for key in keys] == [("ssh", "p256", True)]
    for line in (
        keys[0]["openssh"],
        f"ssh -I {shlex.quote(module_path)} HOST",
        f'    PKCS11Provider "{module_path}"' if " " in module_path else f"    PKCS11Provider {module_path}",
        f"ssh-add -s {shlex.quote(module_path)}",
    ):
        assert line in said.splitlines()
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    assert {0o600} == {stat.S_IMODE(file.stat().st_mode) for file in store.iterdir()}


def test_init_says_if_programs_will_not_see_the_token(p11tpm_cli, host_env, tmp_path):
    env = host_env()
    (tmp_path / "p11tpm.conf").write_text("token = work\n")
    assert "write 'token = p11tpm'" in p11tpm_cli("init", "--no-pin", env=env).stderr


@pytest.mark.usefixtures("cli")
def test_init_leaves_nothing_loaded_in_the_tpm(swtpm):
    assert swtpm.loaded() == []


def test_init_twice_changes_nothing(cli, pin_file):
    before = good(cli("key", "list"))
    failed(cli("init", "--pin-file", pin_file), "already a token 'p11tpm': add a key with 'p11tpm key generate")
    assert before == good(cli("key", "list"))


def test_init_without_what_the_tpm_has_leaves_nothing(p11tpm_cli):
    failed(p11tpm_cli("init", "--no-pin", "--algorithm", "rsa4096"), "makes no rsa4096 keys; it makes: p256")
    assert json.loads(good(p11tpm_cli("token", "list", "--json"))) == []


def test_init_without_a_terminal_says_what_to_do(host_env):
    done = subprocess.run(
        [CLI, "init"], env=host_env(), capture_output=True, text=True, start_new_session=True, timeout=60, check=False
    )
    failed(done, "no terminal to ask for the .*PIN: give it in a file")


def test_init_without_a_tpm_changes_nothing(p11tpm_cli, host_env, pin_file, store):
    failed(p11tpm_cli("init", "--pin-file", pin_file, env=host_env("swtpm:host=127.0.0.1,port=1", store)), "TPM")
    assert json.loads(good(p11tpm_cli("token", "list", "--json"))) == []


@pytest.mark.parametrize("command", [["init"], ["token", "create", "--label", "web"]])
def test_without_a_tpm_nobody_is_asked_for_a_pin(host_env, store, command):
    code, seen = talk(command, host_env("swtpm:host=127.0.0.1,port=1", store), [])
    assert code == 1
    assert "no TPM at swtpm:host=127.0.0.1,port=1" in seen
    assert "PIN" not in seen


def talk(arguments, env, answers, prepare=None):
    """Run the command on a terminal, answer what it asks for secrets, and give exit status and what was to be seen."""
    terminal = Terminal([CLI, *arguments], env, prepare=prepare)
    for question, answer in answers:
        assert terminal.shows(rf"^{re.escape(question)}\Z"), terminal.seen
        terminal.type_secret(answer)
    return terminal.end(), terminal.seen


def test_init_asks_twice_without_echo(host_env, p11tpm_cli, pin_file):
    answers = [
        ("New PIN: ", "123"),  # too short
        ("New PIN: ", USER_PIN),
        ("PIN again: ", "654321"),
        ("New PIN: ", USER_PIN),
        ("PIN again: ", USER_PIN),
        ("New SO PIN: ", SO_PIN),
        ("SO PIN again: ", SO_PIN),
    ]
    code, seen = talk(["init"], host_env(), answers)
    assert code == 0, seen
    assert not any(pin in seen for pin in (USER_PIN, SO_PIN, "654321", "123\n"))
    good(p11tpm_cli("key", "generate", "--label", "second", "--pin-file", pin_file))


def ignore_interrupts():
    """As sh does for `p11tpm init &`, and cron and nohup for whatever they start."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize("prepare", [None, ignore_interrupts])
def test_an_interrupted_question_changes_nothing(host_env, p11tpm_cli, prepare):
    code, seen = talk(["init"], host_env(), [("New PIN: ", CTRL_C)], prepare)
    assert code == 1
    assert "interrupted; nothing that existed before was changed" in seen
    assert good(p11tpm_cli("token", "list")) == ""


def test_a_token_may_have_no_so_pin(host_env):
    answers = [("New PIN: ", USER_PIN), ("PIN again: ", USER_PIN), ("New SO PIN: ", "")]
    code, seen = talk(["init"], host_env(), answers)
    assert code == 0, seen


# -- PINs


def test_a_wrong_pin_is_counted_once(cli, tmp_path, swtpm):
    wrong = write_secret(tmp_path / "wrong", "999999\n")
    failed(cli("key", "generate", "--label", "web", "--pin-file", wrong), "the PIN is wrong")
    assert swtpm.lockout_counter() == 1
    assert json.loads(good(cli("token", "list", "--json")))[0]["pin"] == "wrong PIN counted"


def test_a_pin_file_that_others_can_read_is_refused(cli, pin_file):
    pin_file.chmod(0o644)
    failed(cli("key", "generate", "--label", "web", "--pin-file", pin_file), f"chmod 600 {pin_file}")


def test_a_missing_pin_file_is_said(cli, tmp_path):
    failed(cli("key", "generate", "--label", "web", "--pin-file", tmp_path / "none"), "none: No such file")


def test_a_pin_may_come_by_stdin(cli):
    good(cli("key", "generate", "--label", "web", "--pin-file", "-", input=f"{USER_PIN}\n"))


def test_one_pin_of_a_new_token_may_come_by_stdin(p11tpm_cli, pin_file):
    create = ("token", "create", "--label", "web", "--so-pin-file", "-", "--pin-file")
    failed(p11tpm_cli(*create, "-", input=f"{SO_PIN}\n"), "-: write the PIN")
    assert json.loads(good(p11tpm_cli("token", "list", "--json"))) == []
    good(p11tpm_cli(*create, pin_file, input=f"{SO_PIN}\n"))


def closing(which, env, *arguments):
    """Run the command with a standard stream closed, such as `<&-`."""
    command = ["sh", "-c", f'exec "$@" {which}', "sh", CLI, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.usefixtures("cli")
def test_a_closed_stdin_is_said(host_env):
    generate = ["key", "generate", "--label", "web", "--pin-file", "-"]
    failed(closing("<&-", host_env(), *generate), "standard input is closed: give the PIN")
    failed(closing("<&-", host_env(), "key", "delete", "ssh"), "add --yes", 2)


def test_a_closed_stdout_is_a_failure(free, host_env):
    for command in (["key", "list"], ["key", "public"], ["key", "delete", "ssh", "--yes"], ["--help"]):
        failed(closing(">&-", host_env(), *command), "standard output is closed")
    good(closing("2>&-", host_env(), "key", "generate", "--label", "web"))
    assert [key["label"] for key in json.loads(good(free("key", "list", "--json")))] == ["ssh", "web"]


@pytest.mark.usefixtures("cli")
@pytest.mark.parametrize("pin", ["", "x" * 129])
def test_what_is_no_pin_costs_no_try(host_env, swtpm, pin):
    code, seen = talk(["key", "generate", "--label", "web"], host_env(), [("PIN of token 'p11tpm': ", pin)])
    assert code == 1
    assert "a PIN has at most 128 bytes, and is not empty" in seen
    assert swtpm.lockout_counter() == 0


# -- keys


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["p256", "p384", "rsa2048"])
def test_generate_list_public_delete(cli, pin_file, algorithm):
    uri = good(cli("key", "generate", "--label", "web key", "--algorithm", algorithm, "--pin-file", pin_file)).strip()
    key = json.loads(good(cli("key", "list", "--json")))[1]
    assert (uri, algorithm) == (key["uri"], key["algorithm"])
    assert f"    {uri}\n" in good(cli("key", "list"))
    assert "object=web%20key" in uri
    openssh, pem = (good(cli("key", "public", key["id"], "--format", form)).strip() for form in ("openssh", "pem"))
    assert openssh.endswith(" web key")
    assert load_ssh_public_key(openssh.encode()) == load_pem_public_key(pem.encode())
    good(cli("key", "delete", "web key", "--yes", "--pin-file", pin_file))
    assert [key["label"] for key in json.loads(good(cli("key", "list", "--json")))] == ["ssh"]


def test_a_label_is_used_once(cli, pin_file):
    failed(cli("key", "generate", "--label", "ssh", "--pin-file", pin_file), "already a key 'ssh'")


def test_an_unknown_key_is_said(cli):
    failed(cli("key", "public", "nobody"), "no key 'nobody': see 'p11tpm key list'")


def test_both_halves_are_deleted_or_none(cli, store, pin_file):
    """A trigger stands for what may stop the program between the two."""
    stop = """CREATE TRIGGER stop BEFORE DELETE ON object WHEN (SELECT count(*) FROM object) = 1
        BEGIN SELECT RAISE(ABORT, 'stopped'); END"""
    with sqlite3.connect(store / "p11tpm.db") as database:
        database.execute(stop)
    assert cli("key", "delete", "ssh", "--yes", "--pin-file", pin_file).returncode == 1
    assert database.execute("SELECT count(*) FROM object").fetchone() == (2,)
    database.close()


@pytest.mark.slow
def test_a_private_key_alone_is_a_key(cli, store, pin_file):
    """Java, for one, makes no public key objects."""
    lonely = "DELETE FROM object WHERE id IN (SELECT object FROM attribute WHERE type=? AND value=?)"
    with sqlite3.connect(store / "p11tpm.db") as database:
        database.execute("PRAGMA foreign_keys=ON")
        database.execute(lonely, (CKA.CLASS, ulong(CKO.PUBLIC_KEY)))
    database.close()
    assert "ssh  p256" in good(cli("key", "list"))
    assert "1 key" in good(cli("token", "list"))
    assert good(cli("key", "public", "ssh")).startswith("ecdsa-sha2-nistp256 ")
    failed(cli("key", "generate", "--label", "ssh", "--pin-file", pin_file), "already a key 'ssh'")
    good(cli("key", "delete", "ssh", "--yes", "--pin-file", pin_file))
    assert good(cli("key", "list")) == ""


def test_a_copy_of_a_private_key_is_a_key(cli, store):
    """As C_CopyObject makes one: there is one public key for both."""
    columns = "token, tpm_public, tpm_private"
    copied = f"INSERT INTO object (uuid, {columns}) SELECT randomblob(16), {columns}"
    with sqlite3.connect(store / "p11tpm.db") as database:
        find = "SELECT object FROM attribute WHERE type=? AND value=?"
        (private,) = database.execute(find, (CKA.CLASS, ulong(CKO.PRIVATE_KEY))).fetchone()
        copy = database.execute(f"{copied} FROM object WHERE id=?", (private,)).lastrowid
        attributes = "INSERT INTO attribute SELECT ?, type, token, value FROM attribute WHERE object=?"
        database.execute(attributes, (copy, private))
    database.close()
    assert [key["label"] for key in json.loads(good(cli("key", "list", "--json")))] == ["ssh", "ssh"]
    failed(cli("key", "public", "ssh"), "has 2 such keys")


@pytest.mark.slow
@pytest.mark.parametrize("prepare", [None, ignore_interrupts])
def test_deleting_asks(cli, host_env, pin_file, prepare):
    failed(cli("key", "delete", "ssh", "--pin-file", pin_file), "add --yes", 2)
    not_confirmed, interrupted = "not confirmed; nothing was changed", "interrupted; nothing that existed"
    answers = (("n\n", 1, not_confirmed), ("\n", 1, not_confirmed), (CTRL_C, 1, interrupted), ("y\n", 0, ""))
    for answer, code, said in answers:
        terminal = Terminal([CLI, "key", "delete", "ssh", "--pin-file", pin_file], host_env(), prepare=prepare)
        assert terminal.shows(r"\[y/N\]: \Z"), terminal.seen
        terminal.type(answer)
        assert terminal.end() == code, terminal.seen
        assert said in terminal.seen
        assert ("ssh" in good(cli("key", "list"))) is bool(said)


def test_a_token_without_pin_asks_for_none(free):
    good(free("key", "generate", "--label", "web"))
    assert json.loads(good(free("token", "list", "--json")))[0]["pin"] == "none"
    good(free("key", "delete", "web", "--yes"))


def test_listing_needs_no_tpm(cli, host_env, store):
    nowhere = host_env("swtpm:host=127.0.0.1,port=1", store)
    assert "ssh" in good(cli("key", "list", env=nowhere))
    assert "p11tpm" in good(cli("token", "list", env=nowhere))


@contextmanager
def busy(tpm):
    """The TPM takes its time: it answers nothing within this block."""
    pid = tpm._process.pid  # noqa: SLF001 - the rig has no word for it
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_interrupted_generation_leaves_the_old_state(free, host_env, proxy):
    asked, enough = threading.Event(), threading.Event()

    def answer(request):
        if Command(request, b"").name == "Create":
            asked.set()
            enough.wait(60)

    proxy.answer = answer
    arguments = [CLI, "key", "generate", "--label", "web"]
    process = subprocess.Popen(arguments, env=host_env(proxy), stderr=subprocess.PIPE, text=True)
    assert asked.wait(60)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=5)[1]
    enough.set()
    assert (process.returncode, said) == (1, "p11tpm: interrupted; nothing that existed before was changed\n")
    assert [key["label"] for key in json.loads(good(free("key", "list", "--json")))] == ["ssh"]


@pytest.mark.usefixtures("free")
def test_a_long_generation_shows_that_it_goes_on(host_env, swtpm):
    with busy(swtpm):
        terminal = Terminal([CLI, "key", "generate", "--label", "web"], host_env() | {"TERM": "xterm"})
        assert terminal.shows(r"The TPM makes a key of type p256.*\(1 s\)"), terminal.seen
    assert terminal.end() == 0, terminal.seen


# -- tokens


@pytest.mark.slow
def test_a_second_token_is_made_and_deleted(free, pin_file):
    done = free("token", "create", "--label", "work", "--pin-file", pin_file)
    assert done.returncode == 0
    assert "write 'token = work'" in done.stderr
    tokens = json.loads(good(free("token", "list", "--json")))
    assert [(one["label"], one["shown"], one["keys"]) for one in tokens] == [("p11tpm", True, 1), ("work", False, 0)]
    assert done.stdout.strip() == tokens[1]["uri"]
    good(free("key", "generate", "--token", "work", "--label", "a", "--pin-file", pin_file))
    assert "object=a;" in good(free("key", "list", "--token", "work"))
    failed(free("token", "create", "--label", "work", "--no-pin"), "already a token 'work'")
    failed(free("token", "delete", "work"), "with 1 key for ever.*add --yes", 2)
    good(free("token", "delete", "work", "--yes"))
    failed(free("key", "list", "--token", "work"), "no token 'work', only: p11tpm")


@pytest.mark.parametrize("label", ["", " ", "x" * 33, "two\nlines"])
def test_a_label_that_is_none(p11tpm_cli, label):
    failed(p11tpm_cli("token", "create", "--no-pin", "--label", label), "1 to 32 bytes", 2)


def test_without_a_token_it_says_init(p11tpm_cli):
    failed(p11tpm_cli("key", "list"), "make one with 'p11tpm init'")
    assert good(p11tpm_cli("token", "list")) == ""


# -- output


@pytest.mark.usefixtures("cli")
def test_a_reader_that_has_seen_enough(host_env):
    line = f"{shlex.quote(str(CLI))} key list | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["/bin/bash", "-c", line], env=host_env(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""


def test_a_bad_configuration_is_said_with_file_and_line(p11tpm_cli, host_env, tmp_path):
    env = host_env()
    (tmp_path / "p11tpm.conf").write_text(f"\n{USER_PIN}\n")
    failed(p11tpm_cli("key", "list", env=env), r"p11tpm.conf:2: this setting is not known")
