"""README.md and conf.example say what the code does."""

import re
import shlex
from pathlib import Path

import click
import pytest

import tables
from p11tpm.cli.root import p11tpm
from p11tpm.error import Error
from p11tpm.host.config import Config
from rig import write_secret

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def commands():
    """Every call of p11tpm in the README's code blocks and code spans."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    blocks = [text for language, text in fenced if language in {"", "sh"}]
    spans = re.findall(r"(?<!`)`(p11tpm [^`\n]+)`", README)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in lines + spans:
        for call in re.findall(r"\bp11tpm ([a-z][^|)&;#]*)", line):
            yield call.strip()


def test_every_command_in_the_readme_is_there():
    found = list(commands())
    assert len(found) > 12
    for call in found:
        words = shlex.split(call)
        command: click.Command = p11tpm
        context = click.Context(p11tpm, info_name="p11tpm")
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            name = words.pop(0)
            command = command.commands[name]
            context = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            assert words == ["--help"], call
        else:
            names = {name for parameter in command.params for name in parameter.opts} | {"--help"}
            given = {word for word in words if word.startswith("-")} - {"-"}  # which is standard input
            assert given <= names, call


def test_the_tables_are_those_of_the_code():
    assert tables.renewed(README) == README, "make them anew: python tests/tables.py"


@pytest.fixture
def example():
    """The settings of conf.example, the comment marks taken away."""
    return dict(re.findall(r"^# ([a-z-]+) = (.+)$", (ROOT / "conf.example").read_text(), re.MULTILINE))


def read(tmp_path, text):
    file = write_secret(tmp_path / "p11tpm.conf", text)
    config = Config()
    config.read(str(file))
    return config


def test_the_example_has_every_setting(tmp_path, example):
    with pytest.raises(Error, match="the settings are ") as refused:
        read(tmp_path, "nonsense = 1\n")
    assert set(refused.value.why.split("the settings are ")[1].split(", ")) == set(example)


def test_the_example_shows_the_defaults(tmp_path, example):
    default = Config()
    config = read(tmp_path, "".join(f"{key} = {value}\n" for key, value in example.items()))
    for name in ("tcti", "bus", "mechanisms", "pin_tries", "pin_min", "log", "log_level", "log_uses"):
        assert getattr(default, name) == getattr(config, name), name


def test_the_example_can_be_used_as_it_is(tmp_path):
    config = read(tmp_path, (ROOT / "conf.example").read_text())
    assert config.token is None
