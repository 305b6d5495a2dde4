"""What a host's memory is searched for: secrets of a token, in every form in which programs keep them."""

from __future__ import annotations

import hmac
import re
from pathlib import Path
from typing import TYPE_CHECKING

from p11tpm.store import Store
from p11tpm.tpm import Blob, Srk, Tpm

if TYPE_CHECKING:
    from collections.abc import Iterator

    import rig

PIN, SO_PIN, NEW_PIN, NEW_SO_PIN, WRONG_PIN, DATA, AES, GENERIC, WRAPPED, EC, KEPT, PLAIN = range(1, 13)  # secrets.c
HALF = 16  # bytes of a secret that are looked for


def _numbers(number: int, size: int) -> Iterator[int]:
    state = number * 2654435761
    for _ in range(size):
        state = (state * 1103515245 + 12345) & 0xFFFFFFFF
        yield state >> 16


def word(number: int) -> str:
    """Return a PIN, as secrets.c makes it."""
    return "".join(chr(ord("a") + one % 26) for one in _numbers(number, 24))


def value(number: int, size: int) -> bytes:
    """Return the value of an object, as secrets.c makes it."""
    return bytes(one & 0xFF for one in _numbers(number, size))


class Token:
    """The secrets of a user's only token, made here from its store as the README says it."""

    def __init__(self, user: rig.User) -> None:
        store = Store(str(user.store))
        (self._row,) = store.tokens()
        (key,) = (record for id_ in store.find(self._row.id, {}, {}) if (record := store.record(id_)).tpm_private)
        store.close()
        tpm = Tpm(user.env["P11TPM_TCTI"])
        row = self._row
        blob = Blob(row.user_public, row.user_private)
        tpm.bind(Srk(row.srk_handle, row.srk_public))
        self.secret = tpm.unseal(blob, self.auth("USER", PIN))
        tpm.release()
        self.key_auth = self.derived(b"key|" + key.uuid)

    def auth(self, role: str, pin: int) -> bytes:
        """Return the authorisation value that stands for a PIN."""
        text = b"|".join((role.encode(), self._row.uuid, word(pin).encode()))
        return hmac.digest(self._row.salt, text, "sha256")[:-1] + b"\x01"

    def derived(self, what: bytes) -> bytes:
        """Return what is derived from the token's secret."""
        return hmac.digest(self.secret, what, "sha256")


def _digits(secret: bytes) -> bytes:
    """Return a number as an int of Python has it: 30 bits in four bytes, the lowest first; but for both ends."""
    number = int.from_bytes(secret, "big") >> 30
    digits = []
    for _ in range(min(4, len(secret) * 8 // 30 - 1)):
        digits.append(number & 0x3FFFFFFF)
        number >>= 30
    return b"".join(digit.to_bytes(4, "little") for digit in digits)


def forms(secret: bytes) -> dict[str, bytes]:
    """Return the forms of a secret that are looked for: halves of it, and what calculations make of it."""
    half = secret[:HALF]
    return {
        "first half": half,
        "last half": secret[-HALF:],
        "hexadecimal": half.hex().encode(),
        "hexadecimal, in capitals": half.hex().upper().encode(),
        "inner key of an HMAC": bytes(byte ^ 0x36 for byte in half),
        "outer key of an HMAC": bytes(byte ^ 0x5C for byte in half),
        "words of a hash": b"".join(half[at : at + 4][::-1] for at in range(0, HALF, 4)),
        "lower half of a number": secret[-HALF:][::-1],
        "upper half of a number": half[::-1],
        "number of Python": _digits(secret),
    }


def memory(pid: int) -> Iterator[tuple[str, bytes]]:
    """Return what a process can write, or has written once: each mapping and its name."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as everything:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            first, last, rights, name = re.fullmatch(r"(\w+)-(\w+) (\S+) \S+ \S+ \S+ *(.*)", line).groups()
            if rights[0] == "r" and (rights[1] == "w" or not name):
                everything.seek(int(first, 16))
                yield f"{first} {rights} {name}", everything.read(int(last, 16) - int(first, 16))


def found(pid: int, secrets: dict[str, bytes]) -> list[str]:
    """Search a process's memory: which secret is there, in what form, and where."""
    wanted = {(name, form): part for name, secret in secrets.items() for form, part in forms(secret).items()}
    seen = []
    for mapping, content in memory(pid):
        seen += [f"{name}, {form}: {mapping}" for (name, form), part in wanted.items() if part in content]
    return seen
