"""How a function is attached to its C stub: errors become return values here and nowhere else.

The stub counts a result only if it carries FINISHED, so that a broken interpreter can never look like CKR_OK.
"""

from __future__ import annotations

from _p11tpm import ffi, lib

from p11tpm.ck import CKR, name
from p11tpm.error import Error, LengthOnly, rv_of
from p11tpm.host import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any

FINISHED = int(lib.FINISHED)

# Return values that are logged by default: faults of the machine, not mistakes of the caller.
FAULTS = frozenset(
    {
        CKR.HOST_MEMORY,
        CKR.GENERAL_ERROR,
        CKR.FUNCTION_FAILED,
        CKR.DEVICE_ERROR,
        CKR.DEVICE_MEMORY,
        CKR.DEVICE_REMOVED,
        CKR.TOKEN_NOT_RECOGNIZED,
    },
)

_functions: dict[str, Callable[..., None]] = {}
_attached: set[str] = set()
_watched: set[str] = set()


def _frames(traceback: TracebackType | None) -> Iterator[str]:
    """Describe the frames of a traceback, as the module traceback does; that would have to be imported just now."""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        yield f'\n  File "{code.co_filename}", line {traceback.tb_lineno}, in {code.co_name}'
        traceback = traceback.tb_next


def _failed(function: str, exception: BaseException) -> int:
    """Log why a function failed and give its return value: never CKR_OK."""
    rv = rv_of(exception)
    if isinstance(exception, Error):
        (log.error if rv in FAULTS else log.debug)(f"{function}: {name(CKR, rv)}: {exception.why}")
    else:
        # The frames alone: the text of a foreign exception may hold data; that of an import has names and paths.
        frames = "".join(_frames(exception.__traceback__))
        text = f": {exception}" if isinstance(exception, ImportError) else ""
        log.error(f"{function}: {name(CKR, rv)}: {type(exception).__name__}{text}{frames}")
    _let_go(exception)
    return rv


def _let_go(exception: BaseException | None) -> None:
    """Part errors from the frames that they passed, which may refer to them in turn: else a PIN is kept in a circle."""
    while exception is not None:
        exception.__traceback__ = None
        exception = exception.__context__


def _attach(function: str, call: Callable[..., int]) -> None:
    ffi.def_extern(name=f"py_{function}", error=0)(call)
    _attached.add(function)


def entry(function: Callable[..., None]) -> Callable[..., None]:
    """Attach a function to its C stub and map its exceptions to return values."""
    _functions[function.__name__] = function
    _attach(function.__name__, _answering(function.__name__, function))
    return function


def _answering(name_: str, function: Callable[..., None]) -> Callable[..., int]:
    def call(*args: Any) -> int:
        try:
            function(*args)
        except LengthOnly:
            return FINISHED | CKR.OK
        except BaseException as exception:  # noqa: BLE001 - nothing may pass into the host
            return FINISHED | _failed(name_, exception)
        return FINISHED | CKR.OK

    return call


def functions() -> tuple[str, ...]:
    """Return the names of the functions that are attached and do something."""
    return tuple(_functions)


def watch(watchers: dict[str, Callable[[Callable[..., None]], Callable[..., None]]]) -> None:
    """Call watched functions in the place of those with these names, and the others as they are.

    A watcher makes of a function the one that is called. Other functions cost nothing.
    """
    for name_ in _watched | watchers.keys():
        function = _functions[name_]
        _attach(name_, _answering(name_, watchers[name_](function) if name_ in watchers else function))
    _watched.clear()
    _watched.update(watchers)


def _not_supported(*_args: object) -> int:
    return FINISHED | CKR.FUNCTION_NOT_SUPPORTED


def attach_the_rest() -> None:
    """Attach every function that is not built to the answer CKR_FUNCTION_NOT_SUPPORTED."""
    for stub in dir(lib):
        if stub.startswith("py_C_") and stub[3:] not in _attached:
            _attach(stub[3:], _not_supported)


@ffi.def_extern(error=0)  # type: ignore[untyped-decorator]
def py_attached() -> int:
    """Return to the C side how many functions have code; it starts nothing before all have."""
    return FINISHED | len(_attached)
