"""``p11tpm recipe``: what to type, and what to write where, so that a program uses this token."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from p11tpm.cli import module
from p11tpm.cli.machine import Machine, token_option
from p11tpm.cli.output import example, json_option, print_json, print_listing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PLACE = Path(__file__).parent / "recipes"
PIN_FILE = "/etc/p11tpm/pin"
_BLOCK = re.compile(r"(.*?)(?:^```(\w*)\n(.*?)^```$|\Z)", re.MULTILINE | re.DOTALL)


def names() -> list[str]:
    """Return the names of all recipes, in order."""
    return sorted(path.stem for path in PLACE.glob("*.md"))


class Recipe:
    """A recipe: its `title`, and `blocks`, each what it is about, its language ("sh" for commands) and its text.

    The last block may have nothing but what there is to say at the end.
    `values` are written for ``@MODULE@``, the path of the module, ``@TOKEN@``, the token's label as in a URI, and
    ``@PIN_FILE@``, the path of the file with its PIN.
    """

    def __init__(self, name: str, values: Mapping[str, str]) -> None:
        text = (PLACE / f"{name}.md").read_text()
        for word, value in values.items():
            text = text.replace(f"@{word}@", value)
        head, _, self.body = text.partition("\n")
        self.title = head.removeprefix("# ")
        blocks = ((about.strip(), language, code) for about, language, code in _BLOCK.findall(self.body))
        self.blocks = [block for block in blocks if any(block)]

    def lines(self) -> Iterator[str]:
        """Return it as something to paste: all that is not a command or a setting is a comment."""
        yield f"# {self.title}"
        for about, _, text in self.blocks:
            yield ""
            yield from (f"# {line}".rstrip() for line in about.splitlines())
            yield from text.splitlines()


@click.command(epilog=example("p11tpm recipe", "p11tpm recipe ssh", "p11tpm recipe nginx --pin-file /etc/p11tpm/pin"))
@click.argument("name", metavar="[PROGRAM]", type=click.Choice(names()), required=False)
@token_option
@click.option(
    "--pin-file",
    type=click.Path(path_type=Path, resolve_path=True),
    help=f"The file that services read the PIN from; by default the setting 'pin-file', or {PIN_FILE}. Not read here.",
)
@json_option
def recipe(name: str | None, token_label: str | None, pin_file: Path | None, *, as_json: bool) -> None:
    """Print how a program is set up for this token: commands to type, settings to write.

    Without PROGRAM, list the programs. The output can be pasted: all other text in it is a comment.
    """
    if name is None:
        rows = [(one, Recipe(one, {}).title) for one in names()]
        if as_json:
            print_json([{"name": one, "title": title} for one, title in rows])
        else:
            print_listing([(row, ()) for row in rows])
        return
    with Machine() as machine:
        told = Recipe(
            name,
            {
                "MODULE": module.path(),
                "TOKEN": quote(machine.token(token_label).label, safe="", errors="surrogateescape"),
                "PIN_FILE": str(pin_file or machine.config.pin_file or PIN_FILE),
            },
        )
    if as_json:
        print_json([dict(zip(("about", "language", "text"), block, strict=True)) for block in told.blocks])
    else:
        click.echo("\n".join(told.lines()))
