"""What the command does to tokens and keys, in the log of uses."""

from __future__ import annotations

import re

import pytest

from command import failed, good
from rig import write_secret


@pytest.fixture
def cli(p11tpm_cli, host_env, tmp_path):
    """The command with the setting 'log-uses'."""
    env = host_env()
    write_secret(tmp_path / "p11tpm.conf", f"log = {tmp_path}/log\nlog-uses = yes\n")
    return lambda *args: p11tpm_cli(*args, env=env)


def said(tmp_path):
    line = re.compile(r'\S+ p11tpm\[\d+\] notice: (use=.* answer=CKR_\w+) program="p11tpm" uid=\d+ euid=\d+')
    return [line.fullmatch(text)[1] for text in (tmp_path / "log").read_text().splitlines()]


def test_commands(cli, tmp_path, pin_file, so_pin_file):
    good(cli("init", "--pin-file", pin_file, "--so-pin-file", so_pin_file))
    good(cli("key", "generate", "--label", "web", "--pin-file", pin_file))
    failed(cli("key", "generate", "--label", "other", "--pin-file", so_pin_file), "wrong")
    good(cli("key", "list"))
    good(cli("key", "delete", "web", "--yes", "--pin-file", pin_file))
    good(cli("token", "delete", "p11tpm", "--yes"))
    ids = re.findall(r'generate .* label="web" (id=\w+)', (tmp_path / "log").read_text())
    key = f'label="web" {ids[0]}'
    token, ok = 'token="p11tpm"', "answer=CKR_OK"
    made = "mechanism=CKM_EC_KEY_PAIR_GEN"
    first, *rest = said(tmp_path)
    assert first == f"use=init-token {token} {ok}"
    login = f"use=login {token} role=user"
    assert rest[0] == f"{login} {ok}"
    assert re.fullmatch(rf'use=generate {token} class=CKO_PRIVATE_KEY label="ssh" id=\w+ {made} {ok}', rest[1])
    assert rest[2:] == [
        f"{login} {ok}",
        f"use=generate {token} class=CKO_PRIVATE_KEY {key} {made} {ok}",
        f"{login} answer=CKR_PIN_INCORRECT",
        f"{login} {ok}",
        f"use=destroy {token} class=CKO_PRIVATE_KEY {key} {ok}",
        f"use=destroy {token} class=CKO_PUBLIC_KEY {key} {ok}",
        f"use=delete-token {token} {ok}",
    ]


def test_a_token_is_bound_and_freed(cli, tmp_path, pin_file, swtpm):
    swtpm.extend(7, b"keys of the firmware")
    good(cli("init", "--pin-file", pin_file))
    code = write_secret(tmp_path / "code", cli("token", "bind", "--pcr", "7", "--pin-file", pin_file).stdout)
    good(cli("token", "reseal", "--pin-file", pin_file))
    swtpm.extend(7, b"another key")
    failed(cli("token", "unbind", "--yes", "--pin-file", pin_file), "PCR 7 is another")
    good(cli("token", "recover", "--recovery-file", code, "--pin-file", pin_file))
    good(cli("token", "unbind", "--yes", "--pin-file", pin_file))
    token, ok = 'token="p11tpm"', "answer=CKR_OK"
    assert said(tmp_path)[-5:] == [
        f"use=bind {token} {ok}",
        f"use=reseal {token} {ok}",
        f"use=unbind {token} answer=CKR_FUNCTION_FAILED",
        f"use=recover {token} {ok}",
        f"use=unbind {token} {ok}",
    ]


def test_nothing_without_the_setting(p11tpm_cli, host_env, tmp_path):
    env = host_env()
    write_secret(tmp_path / "p11tpm.conf", f"log = {tmp_path}/log\n")
    good(p11tpm_cli("init", "--no-pin", env=env))
    assert not (tmp_path / "log").exists()
