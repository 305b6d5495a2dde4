"""The run of the library in this process, if there is one, and what a fork makes of it."""

from __future__ import annotations

import posix

from p11tpm.ck import CKR
from p11tpm.core.module import Module
from p11tpm.entry.c_memory import NULL
from p11tpm.error import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from p11tpm.core.session import Session
    from p11tpm.host.config import Config

_run: Module | None = None


def module() -> Module:
    """Return the run of the library; CKR_CRYPTOKI_NOT_INITIALIZED outside of one."""
    if _run is None:
        raise Error(CKR.CRYPTOKI_NOT_INITIALIZED, "C_Initialize was not called")
    return _run


def to_begin(session: int, kind: str, mechanism: Any) -> Session | None:
    """Return the session in which an operation is to begin: CKR_OPERATION_ACTIVE if one of its kind is active.

    None: a NULL mechanism ended an active one, which is what it is for (3.0, clauses 5.8 to 5.15).
    """
    current = module().session(session)
    if mechanism == NULL and current.cancel(kind):
        return None
    current.require_none(kind)
    return current


def begin(prepare: Callable[[Config], None]) -> None:
    """Begin the run when `prepare` is done for its configuration; CKR_CRYPTOKI_ALREADY_INITIALIZED if there is one."""
    global _run  # noqa: PLW0603 - the standard has one run a process
    if _run is not None:
        raise Error(CKR.CRYPTOKI_ALREADY_INITIALIZED, "C_Initialize was called before")
    run = Module()
    prepare(run.config)
    _run = run


def end() -> None:
    """End the run; calls of other threads find none from here on."""
    global _run  # noqa: PLW0603
    run = module()
    _run = None
    run.close()


def _before_fork() -> None:
    if _run is not None:
        _run.pause()


def _after_fork_in_parent() -> None:
    if _run is not None:
        _run.resume()


def _after_fork_in_child() -> None:
    """Forget the run in a forked child, where the parent's connections must not be used."""
    global _run
    run, _run = _run, None
    if run is not None:
        run.abandon()


posix.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
