"""Who used which key: one line in the log for each use. Loaded only if the setting 'log-uses' asks for it."""

from __future__ import annotations

import posix

from p11tpm.ck import CKA, CKM, CKO, CKR, CKU, name
from p11tpm.host import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from p11tpm.attribute import Template

PRIVATE_OR_SECRET = frozenset({CKO.PRIVATE_KEY, CKO.SECRET_KEY})
KEYS = PRIVATE_OR_SECRET | {CKO.PUBLIC_KEY}
_ROLES = {CKU.SO: "so", CKU.USER: "user", CKU.CONTEXT_SPECIFIC: "context-specific"}
_MOST = 120  # characters of a label or an identifier: with these as long as can be, a line is not cut


class Use:
    """One use of a token: the action, its role, its mechanism and its keys.

    `keys` has the attributes of the key that was used, made or destroyed, and then those of the key that was wrapped by
    it or that came of it. `token` is the token's label, with bytes that are not UTF-8 as surrogateescape has them.
    """

    __slots__ = ("_done", "keys", "mechanism", "role", "token")

    def __init__(
        self, done: str, token: str, *keys: Template, role: int | None = None, mechanism: int | None = None
    ) -> None:
        self._done = done
        self.token = token
        self.keys = list(keys)
        self.role = role
        self.mechanism = mechanism

    def write(self, program: str, answer: int) -> None:
        """Log that a `program` did this and was answered this CKR_ code. Nothing is raised if that fails."""
        log.notice(lambda: self._line(program, answer))

    def _line(self, program: str, answer: int) -> str:
        words = [f"use={self._done}", f"token={quoted(self.token.encode(errors='surrogateescape'))}"]
        if self.role is not None:
            words.append(f"role={_ROLES.get(self.role, hex(self.role))}")
        for key, before in zip(self.keys, ("", "other-"), strict=False):
            if CKA.CLASS in key:
                words.append(f"{before}class={name(CKO, int.from_bytes(key[CKA.CLASS], 'little'))}")
            words.append(f"{before}label={quoted(key.get(CKA.LABEL, b''))}")
            words.append(f"{before}id={_cut(key.get(CKA.ID, b'').hex())}")
        if self.mechanism is not None:
            words.append(f"mechanism={name(CKM, self.mechanism)}")
        words.append(f"answer={name(CKR, answer)}")
        words.append(f"program={quoted(program.encode(errors='surrogateescape'))}")
        words.append(f"uid={posix.getuid()} euid={posix.geteuid()}")
        return " ".join(words)


def this_program() -> str:
    """Return the kernel's name of this process, of at most 15 bytes; empty if it cannot be read (proc(5))."""
    try:
        descriptor = posix.open("/proc/self/comm", posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            return posix.read(descriptor, 64).removesuffix(b"\n").decode(errors="surrogateescape")
        finally:
            posix.close(descriptor)
    except OSError:
        return ""


def quoted(value: bytes) -> str:
    """Return a JSON string of UTF-8 text from anyone: on one line, with every character that is not shown escaped.

    A byte that is not UTF-8 is the code point that surrogateescape has for it.
    """
    text = value[: 5 * _MOST].decode(errors="surrogateescape")
    return f'"{_cut(_shown(character) for character in text)}"'


def _shown(character: str) -> str:
    if character.isprintable() and character not in '"\\':
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _cut(pieces: Iterable[str]) -> str:
    """Join pieces, or as many as there is room for and an ellipsis."""
    text = ""
    for piece in pieces:
        if len(text) + len(piece) > _MOST:
            return f"{text}…"
        text += piece
    return text
