"""What Python itself costs on this machine: figures that grow and shrink with ours."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import resource
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

from cffi import FFI
from program import BenchError

import rig

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

NAME = "_yardstick"
DECLARED = """
extern "Python" unsigned long empty(void);
void call(double *times, int count);
"""
# as the module's functions are called: by C, without the interpreter's lock, many times
SOURCE = """
#include <time.h>

static unsigned long empty(void);

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static void call(double *times, int count)
{
    for (int i = 0; i < count; i++) {
        double start = now();
        empty();
        times[i] = now() - start;
    }
}
"""
BARE = [sys.executable, "-I", "-S", "-c", "print(open('/proc/self/status').read())"]


class Yardstick:
    """An empty function of Python that C calls through cffi's stub, and a Python that does nothing."""

    def __init__(self, directory: Path) -> None:
        self._ffi = FFI()
        self._ffi.cdef(DECLARED)
        self._ffi.set_source(NAME, SOURCE)
        self._module = self._load(directory)
        self._module.ffi.def_extern("empty")(lambda: 0)

    def _load(self, directory: Path) -> ModuleType:
        source, library = directory / f"{NAME}.c", directory / f"{NAME}{sysconfig.get_config_var('EXT_SUFFIX')}"
        with contextlib.redirect_stdout(io.StringIO()):  # cffi tells what it does
            self._ffi.emit_c_code(str(source))
        include = f"-I{sysconfig.get_path('include')}"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", include, source, "-o", library], timeout=60, check=True)
        spec = importlib.util.spec_from_file_location(NAME, library)
        if not spec or not spec.loader:
            raise BenchError(f"{library} is not a module of this Python")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def call(self, count: int) -> float:
        """Lower quartile of the times of `count` empty calls in microseconds."""
        times = self._module.ffi.new("double[]", count)
        self._module.lib.call(times, count)
        return sorted(times)[count // 4]

    @staticmethod
    def start() -> tuple[float, float]:
        """Processor time (us) of a Python that starts and ends, isolated and without site as ours; its memory (KiB)."""
        before = _work_of_children()
        done = subprocess.run(BARE, env=rig.clean_env(), capture_output=True, text=True, timeout=60, check=True)
        took = _work_of_children() - before
        found = re.search(r"VmRSS:\s*(\d+) kB", done.stdout)
        if not found:
            raise BenchError(f"no VmRSS in {done.stdout}")
        return took * 1e6, float(found[1])


def _work_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
