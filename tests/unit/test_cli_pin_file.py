"""The setting `pin-file` and the command line: users who have a file are not asked."""

import json
import subprocess

import pytest

from command import failed, good
from conftest import CLI, USER_PIN
from rig import write_secret


@pytest.fixture
def cli(host_env, tmp_path):
    """The command without a terminal, with `pin-file` in its configuration; `cli.settings(text)` adds to that."""
    env = host_env()
    pin_file = write_secret(tmp_path / "service.pin", USER_PIN)

    def run(*arguments, **more):
        return subprocess.run(
            [str(CLI), *map(str, arguments)],
            env={**env, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            start_new_session=True,
        )

    def settings(text=""):
        write_secret(tmp_path / "p11tpm.conf", f"pin-file = {pin_file}\n{text}")

    run.settings = settings
    run.pin_file = pin_file
    settings()
    return run


@pytest.fixture
def credentials(tmp_path):
    """A directory of credentials with the PIN, as systemd makes it."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    write_secret(directory / "p11tpm.pin", USER_PIN).chmod(0o440)
    return directory


def findings(done):
    return {one["about"]: one for one in json.loads(done.stdout)}


def test_nothing_is_asked(cli):
    good(cli("init"))
    good(cli("key", "generate", "--label", "web"))
    good(cli("key", "resident", "web"))
    good(cli("key", "delete", "web", "--yes"))


def test_the_command_line_goes_first(cli, tmp_path):
    other = write_secret(tmp_path / "other", "another PIN")
    good(cli("init", "--pin-file", other))
    failed(
        cli("key", "generate", "--label", "web"), f"{cli.pin_file}: the PIN is wrong; write the one of token 'p11tpm'"
    )
    good(cli("key", "generate", "--label", "web", "--pin-file", other))


def test_it_is_for_the_token_that_programs_are_shown(cli, tmp_path, swtpm):
    good(cli("init"))
    failed(cli("token", "create", "--label", "work"), "no terminal to ask for the .*PIN")
    other = write_secret(tmp_path / "other", "another PIN")
    assert cli("token", "create", "--label", "work", "--pin-file", other).returncode == 0
    failed(cli("key", "generate", "--token", "work", "--label", "a"), "no terminal to ask for the .*PIN")
    assert swtpm.lockout_counter() == 0
    cli.settings("token = later\n")
    good(cli("token", "create", "--label", "later"))
    good(cli("key", "generate", "--label", "b"))


def test_a_new_pin_in_the_file_must_be_long_enough(cli):
    cli.settings("pin-min-length = 8\n")
    failed(cli("init"), "a PIN has 8 to 128 bytes")


def test_a_token_without_pin_needs_no_file(cli):
    cli.pin_file.unlink()
    good(cli("init", "--no-pin"))
    good(cli("key", "generate", "--label", "web"))


def test_a_file_that_can_not_be_used_is_said(cli):
    good(cli("init"))
    cli.pin_file.chmod(0o644)
    failed(cli("key", "generate", "--label", "web"), f"chmod 600 {cli.pin_file}")
    cli.pin_file.unlink()
    failed(cli("key", "generate", "--label", "web"), f"{cli.pin_file}: No such file or directory: put the PIN there")
    assert "ssh" in good(cli("key", "list"))


def test_one_pin_for_all_tokens_is_refused(cli):
    cli.settings("token = *\n")
    failed(cli("token", "list"), "'pin-file' .* is the PIN of one token, 'token = \\*' shows all")
    wrong = findings(cli("doctor", "--json"))["configuration"]
    assert (wrong["state"], "'token = *'" in wrong["text"]) == ("wrong", True)


def test_a_credential_goes_before_the_setting(cli, credentials):
    cli.pin_file.unlink()
    good(cli("init", CREDENTIALS_DIRECTORY=str(credentials)))
    good(cli("key", "generate", "--label", "web", CREDENTIALS_DIRECTORY=str(credentials)))
    found = findings(cli("doctor", "--json", CREDENTIALS_DIRECTORY=str(credentials)))["PIN file of systemd"]
    assert (found["state"], found["text"]) == ("ok", f"{credentials}/p11tpm.pin")
    write_secret(credentials / "p11tpm.pin", "")
    found = findings(cli("doctor", "--json", CREDENTIALS_DIRECTORY=str(credentials)))["PIN file of systemd"]
    assert (found["state"], "LoadCredential=" in found["remedy"]) == ("wrong", True)


def test_the_doctor_looks_at_the_file(cli, swtpm):
    good(cli("init"))
    assert findings(cli("doctor", "--json"))["PIN file"]["state"] == "ok"
    write_secret(cli.pin_file, "wrong, but that is not tried\n")
    assert findings(cli("doctor", "--json"))["PIN file"]["state"] == "ok"
    assert swtpm.lockout_counter() == 0
    for spoil in (
        lambda: write_secret(cli.pin_file, "two\nlines\n"),
        lambda: cli.pin_file.chmod(0o644),
        cli.pin_file.unlink,
    ):
        spoil()
        done = cli("doctor", "--json")
        found = findings(done)["PIN file"]
        assert (done.returncode, found["state"]) == (1, "wrong")
        assert f"chmod 600 {cli.pin_file}" in found["remedy"]
    write_secret(cli.pin_file.parent / "p11tpm.conf", "")
    assert not [about for about in findings(cli("doctor", "--json")) if about.startswith("PIN file")]
