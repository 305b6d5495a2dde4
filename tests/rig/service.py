"""A block of a recipe that starts a server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

from rig.process import Process, answers, wait_until, write_secret

if TYPE_CHECKING:
    from pathlib import Path

    from rig.recipe import Recipe
    from rig.user import User

LAST_COMMAND = re.compile(r"^(?=\S(?:[^\n]*\\\n)*[^\n]*\n\Z)", re.MULTILINE)  # lines that end in \ go on


class Service:
    """What the last command of block `index` of `recipe` starts, in `directory`; it is ready when `address` answers.

    The shell makes room for it, so that to stop the service is to stop that program.
    """

    def __init__(
        self, user: User, recipe: Recipe, index: int, directory: Path, address: tuple[str, int] | Path
    ) -> None:
        block = recipe.blocks[index]
        assert block["language"] == "sh", block
        text, count = LAST_COMMAND.subn("exec ", block["text"])
        assert count == 1, text
        script = write_secret(directory / f"service-{index}.sh", f"cd '{directory}'\n{text}")
        self.process = Process(["/bin/sh", "-eu", script], directory / f"service-{index}.log", user.env)
        try:
            wait_until(lambda: self._ready(address), f"block {index}: {block['about']}", 30)
        except BaseException:
            self.process.stop()
            raise

    def _ready(self, address: tuple[str, int] | Path) -> bool:
        if not self.process.running():
            raise ChildProcessError(self.log)
        return answers(address)

    @property
    def log(self) -> str:
        return self.process.output()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()
