"""The command ``p11tpm``: one file per noun, on the same core as the PKCS#11 module.

Here is what has to be right before anything else is loaded, so that whatever happens the user reads plain sentences:
no traceback, and no warning of Python or of a library.
"""

from __future__ import annotations

import os
import sys
import warnings


def main() -> None:
    """Run one command and end the process with its exit status: 0 good, 1 failed, 2 wrong usage."""
    sys.exit(_run())


def _run() -> int:
    if sys.stdout is None:
        return _failed("standard output is closed: there is no place to print to, and nothing was done")
    _quiet()
    try:
        from p11tpm.cli.root import run

        return run()
    except KeyboardInterrupt:
        return _failed("interrupted; nothing that existed before was changed")
    except Exception as error:  # noqa: BLE001 - nobody foresaw it
        return _failed(_reported(error))
    finally:
        _flush()


def _reported(error: Exception) -> str:
    try:
        from p11tpm.cli import report

        return report.say_where(error)
    except Exception:  # noqa: BLE001 - not even that
        return f"p11tpm cannot be loaded ({type(error).__name__}): install it again"


def _quiet() -> None:
    """Keep from the user what is for those who write programs, whatever the environment asks for."""
    os.environ.setdefault("TSS2_LOG", "all+none")  # what tpm2-tss would say on stderr comes as an Error, too
    warnings.simplefilter("ignore")
    warnings.showwarning = lambda *_, **__: None  # for libraries with filters of their own
    sys.unraisablehook = lambda _: None
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # a label may have any character


def _failed(text: str) -> int:
    if sys.stderr is not None:
        sys.stderr.write(f"p11tpm: {text}\n")
    return 1


def _flush() -> None:
    """Drop output that cannot be written, which was said before: Python would try again and complain at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
