"""What `p11tpm recipe` tells a user, done as it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rig.process import write_secret
from rig.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rig.user import User


class Recipe:
    """The blocks of a recipe for `user`, with the names of real places replaced by those of a test: `places`.

    KeyError if one of them does not occur.
    """

    def __init__(self, user: User, blocks: Sequence[Mapping[str, str]], places: Mapping[str, str | Path]) -> None:
        self._user = user
        self.blocks = [dict(block) for block in blocks]
        module = user.module
        if " " in module:  # where a checkout lies is not what is tested
            link = user.directory / Path(module).name
            link.unlink(missing_ok=True)
            link.symlink_to(module)
            self._replace(module, str(link))
        for name in sorted(places, key=len, reverse=True):
            if not self._replace(name, str(places[name])):
                raise KeyError(name)

    @classmethod
    def of(cls, user: User, name: str, places: Mapping[str, str | Path] | None = None) -> Self:
        """The recipe `name` for the token that `user` has."""
        told = user.p11tpm("recipe", name, "--json", "--pin-file", user.pin_file)
        return cls(user, json.loads(told), places or {})

    def _replace(self, name: str, place: str) -> int:
        found = sum(block["text"].count(name) for block in self.blocks)
        for block in self.blocks:
            block["text"] = block["text"].replace(name, place)
        return found

    def text(self, index: int) -> str:
        """What is to be written into a configuration file."""
        assert self.blocks[index]["language"] != "sh", self.blocks[index]
        return self.blocks[index]["text"]

    def run(self, index: int, where: Path | None = None, pin: str = "") -> str:
        """Type a block of commands into a shell in `where`, and the PIN when one is asked for; give what they print."""
        block = self.blocks[index]
        assert block["language"] == "sh", block
        script = write_secret(self._user.directory / "typed.sh", block["text"])
        env = {**self._user.env, "PATH": f"{self._user.command.parent}:{self._user.env['PATH']}", "TERM": "dumb"}
        terminal = Terminal(["/bin/sh", "-eu", script], env, where or self._user.directory)
        while terminal.shows(r"PIN[^\r\n]*: ?\Z"):
            terminal.type_secret(pin or self._user.pin)
        status = terminal.end()
        assert status == 0, f"{block['text']}\nended with {status}: {terminal.seen}"
        return terminal.seen
