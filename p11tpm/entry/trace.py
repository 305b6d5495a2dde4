"""A line in the log for each call of a function. Loaded only with the setting 'log-level = debug'.

It has the function's name, numbers among its arguments, the answer, numbers among the results, and the time: sessions,
handles, mechanisms and sizes, never data. The length of a PIN is left out, too.
"""

from __future__ import annotations

from time import monotonic

from p11tpm.ck import CKM, CKR, name
from p11tpm.entry.attach import functions
from p11tpm.entry.c_memory import NULL
from p11tpm.error import LengthOnly, rv_of
from p11tpm.host import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Function = Callable[..., None]

_OF_PINS = {"pin_length", "old_length", "new_length"}
_MECHANISMS = {"mechanism", "type_"}
_RESULTS = {"count", "handle", "new_handle", "out_length", "private_handle", "public_handle", "size"}
_WITH_RESULTS = {CKR.OK, CKR.BUFFER_TOO_SMALL}


def watchers(others: dict[str, Callable[[Function], Function]]) -> dict[str, Callable[[Function], Function]]:
    """Return what makes of each function one that is traced, and watched as the others say."""

    def tracing(other: Callable[[Function], Function] | None) -> Callable[[Function], Function]:
        return lambda function: _traced(function, other(function) if other else function)

    return {function: tracing(others.get(function)) for function in functions()}


def _traced(function: Function, watched: Function) -> Function:
    names = function.__code__.co_varnames[: function.__code__.co_argcount]

    def call(*args: Any) -> None:
        answer, begun = CKR.OK, monotonic()
        try:
            watched(*args)
        except BaseException as error:
            answer = CKR.OK if isinstance(error, LengthOnly) else rv_of(error)
            raise
        finally:
            _write(function.__name__, dict(zip(names, args, strict=True)), answer, monotonic() - begun)

    return call


def _write(function: str, arguments: dict[str, Any], answer: int, seconds: float) -> None:
    results = "".join(f", {result}" for result in _results(arguments)) if answer in _WITH_RESULTS else ""
    log.debug(f"{function}({', '.join(_numbers(arguments))}): {name(CKR, answer)}{results}, {1000 * seconds:.3f} ms")


def _numbers(arguments: dict[str, Any]) -> Iterator[str]:
    """Return what may be told of the arguments."""
    for word, value in arguments.items():
        if word in _MECHANISMS:
            if value != NULL:
                yield f"mechanism={name(CKM, value if isinstance(value, int) else value.mechanism)}"
        elif isinstance(value, int) and word not in _OF_PINS and not word.startswith("_"):
            yield f"{word}={value}"


def _results(arguments: dict[str, Any]) -> Iterator[str]:
    """Return what may be told of the numbers that a function has written."""
    for word, value in arguments.items():
        if word in _RESULTS and not isinstance(value, int) and value != NULL:
            yield f"{word}={value[0]}"
