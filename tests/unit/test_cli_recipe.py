"""`p11tpm recipe`: what it prints can be pasted, and names this user's token."""

import json
import re

import pytest

from p11tpm.cli.recipe import Recipe, names

PLACEHOLDERS = {"MODULE": "/a/module.so", "TOKEN": "a%20token", "PIN_FILE": "/a/pin"}


@pytest.fixture
def cli(p11tpm_cli, pin_file):
    """The command, on a token named "my token"."""

    def run(*arguments):
        done = p11tpm_cli(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    run("token", "create", "--label", "my token", "--pin-file", pin_file)
    return run


@pytest.mark.parametrize("name", names())
def test_every_recipe_is_complete(name):
    recipe = Recipe(name, PLACEHOLDERS)
    assert re.fullmatch(r"[\w.+/ -]+: .*[^.]", recipe.title), recipe.title
    assert recipe.blocks
    for about, language, text in recipe.blocks:
        assert about, text
        assert bool(language) == bool(text), about
    told = "\n".join(recipe.lines())
    assert not re.search(r"@[A-Z_]+@|```", told)
    in_body = {line for line in recipe.body.splitlines() if line and not line.startswith("```")}
    assert in_body <= {line.removeprefix("# ") for line in told.splitlines()} | set(told.splitlines())
    assert max(map(len, told.splitlines())) <= 130


def test_all_but_commands_and_settings_is_a_comment(cli):
    told = cli("recipe", "ssh").splitlines()
    blocks = json.loads(cli("recipe", "ssh", "--json"))
    pasted = {line for block in blocks for line in block["text"].splitlines()}
    assert pasted
    assert [line for line in told if line and not line.startswith("#") and line not in pasted] == []
    assert pasted <= {*told, ""}


def test_the_token_and_the_pin_file_are_named(cli, module_path):
    told = cli("recipe", "wpa_supplicant", "--pin-file", "/somewhere/my pin")
    assert "token=my%20token;" in told
    assert "/somewhere/my pin" in told
    assert module_path in told


def test_without_a_name_they_are_listed(cli):
    listed = cli("recipe").splitlines()
    assert [line.split()[0] for line in listed] == names()
    assert [one["name"] for one in json.loads(cli("recipe", "--json"))] == names()


def test_an_unknown_program_is_refused(p11tpm_cli):
    done = p11tpm_cli("recipe", "telnet")
    assert done.returncode == 2
    assert "'nginx'" in done.stderr


def test_without_a_token_it_says_how_to_make_one(p11tpm_cli):
    done = p11tpm_cli("recipe", "ssh")
    assert done.returncode == 1
    assert "p11tpm init" in done.stderr
