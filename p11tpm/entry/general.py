"""General purpose (clause 5.4), and the functions of the past (clause 5.20)."""

from __future__ import annotations

from _p11tpm import ffi

from p11tpm import __version__
from p11tpm.ck import CKR
from p11tpm.entry.attach import entry, watch
from p11tpm.entry.c_memory import NULL, write_text, zeroed
from p11tpm.entry.run import begin, end, module
from p11tpm.error import Error
from p11tpm.host import log
from p11tpm.host.imports import Late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.entry import trace, uses
    from p11tpm.host.config import Config

    Ptr = Any
else:
    trace = Late("p11tpm.entry.trace")
    uses = Late("p11tpm.entry.uses")

MANUFACTURER = "p11tpm"
DESCRIPTION = "PKCS#11 on a TPM 2.0"
CRYPTOKI_VERSION = (3, 0)
LIBRARY_VERSION = [int(number) for number in __version__.split(".")[:2]]


@entry
def C_Initialize(arguments: Ptr) -> None:
    """Begin a run. Locks are the system's own, which every legal combination of arguments allows."""
    if arguments != NULL:
        given = ffi.cast("CK_C_INITIALIZE_ARGS *", arguments)
        mutex = (given.CreateMutex, given.DestroyMutex, given.LockMutex, given.UnlockMutex)
        if len({function == NULL for function in mutex}) > 1:
            raise Error(CKR.ARGUMENTS_BAD, "some of the four mutex functions are NULL and some are not")
    begin(_watch)


def _watch(config: Config) -> None:
    """Have uses and calls logged, if the configuration says so."""
    watchers = uses.watchers() if config.log_uses else {}
    watch(trace.watchers(watchers) if log.debugging() else watchers)


@entry
def C_Finalize(reserved: Ptr) -> None:
    """End the run."""
    if reserved != NULL:
        raise Error(CKR.ARGUMENTS_BAD, "the argument is reserved and must be NULL")
    end()


@entry
def C_GetInfo(info: Ptr) -> None:
    """Describe the library."""
    module()
    zeroed(info)
    info.cryptokiVersion.major, info.cryptokiVersion.minor = CRYPTOKI_VERSION
    info.libraryVersion.major, info.libraryVersion.minor = LIBRARY_VERSION
    write_text(info.manufacturerID, MANUFACTURER)
    write_text(info.libraryDescription, DESCRIPTION)


@entry
def C_GetFunctionStatus(session: int) -> None:
    """Answer that nothing runs in parallel."""
    module().session(session)
    raise Error(CKR.FUNCTION_NOT_PARALLEL, "no function runs in parallel")


@entry
def C_CancelFunction(session: int) -> None:
    """Answer that nothing runs in parallel."""
    module().session(session)
    raise Error(CKR.FUNCTION_NOT_PARALLEL, "no function runs in parallel")
