"""A core that is broken in any way never looks like CKR_OK."""

from __future__ import annotations

import pytest

from host.core import WHOLE

GENERAL_ERROR, NOT_INITIALIZED = "0x5", "0x190"
KINDS = [
    "Exception('x')", "MemoryError()", "RecursionError()", "SystemExit(0)", "SystemExit()", "KeyboardInterrupt()",
    "GeneratorExit()", "BaseException()", "StopIteration()", "type('Own', (BaseException,), {})()",
]  # fmt: skip
PURE_C = {"C_GetFunctionList", "C_GetInterfaceList", "C_GetInterface"}

NOT_LOADING = {
    "no package": None,
    "empty": "",
    "syntax error": "def",
    "null byte": "\0",
    "no such module": "import no_such_module",
    "one function without code": WHOLE + "attach(STUBS[1:], good)\nffi.def_extern(name='py_attached')(lambda: 88)",
    "count not finished": WHOLE + "ffi.def_extern(name='py_attached')(lambda: len(STUBS))",
    "count too small": WHOLE + "ffi.def_extern(name='py_attached')(lambda: lib.FINISHED | len(STUBS) - 1)",
    "no count": "from _p11tpm import ffi, lib\n" + WHOLE.split("py_attached")[0].rpartition("\n")[0],
    **{f"import raises {kind}": f"raise {kind}" for kind in KINDS},
    **{f"count raises {kind}": WHOLE + f"def count(): raise {kind}\nattach(['py_attached'], count)" for kind in KINDS},
}

AFTER_THE_START = {
    **{f"raises {kind}": f"def bad(*args): raise {kind}" for kind in KINDS},
    "out of memory": "def bad(*args): return bytes(1 << 60)",
    "out of stack": "def bad(*args): return bad(*args)",
    "no result": "def bad(*args): return None",
    "True": "def bad(*args): return True",
    "CKR_OK": "def bad(*args): return 0",
    "negative": "def bad(*args): return -1",
    "too great": "def bad(*args): return 1 << 64",
    "almost finished": "def bad(*args): return lib.FINISHED - 1",
    "text": "def bad(*args): return 'text'",
    "wrong signature": "def bad(): return lib.FINISHED",
    "kills itself": "def bad(*args): raise good.__code__",
}


def answers(said):
    return dict(line.split() for line in said)


def python_functions(exported):
    return [name for name in exported if name not in PURE_C]


def test_the_control_answers_ok(hosts, core, exported):
    names = [name for name in python_functions(exported) if name != "C_Finalize"]
    said = answers(hosts("every", core.write(WHOLE), "start", *names))
    assert set(said.values()) == {"0x0"}
    assert len(said) == 88


@pytest.mark.parametrize("how", NOT_LOADING)
def test_a_core_that_does_not_load(hosts, core, exported, how):
    said = answers(hosts("every", core.write(NOT_LOADING[how]), "start", *exported))
    assert len(said) == 92
    assert said.pop("C_Initialize") == GENERAL_ERROR
    assert {said.pop(name) for name in ("C_GetFunctionList", "C_GetInterfaceList", "C_GetInterface")} == {"0x7"}
    assert set(said.values()) == {NOT_INITIALIZED}


@pytest.mark.parametrize("how", AFTER_THE_START)
def test_functions_that_fail(hosts, core, exported, how):
    text = f"{WHOLE}\n{AFTER_THE_START[how]}\nattach([name for name in STUBS if name != 'py_C_Initialize'], bad)"
    names = [name for name in python_functions(exported) if name not in {"C_Initialize", "C_Finalize"}]
    said = answers(hosts("every", core.write(text), "start", *names, "C_Finalize"))
    assert said.pop("C_Initialize") == "0x0"
    assert set(said.values()) == {GENERAL_ERROR}


@pytest.mark.parametrize("how", AFTER_THE_START)
def test_initialize_that_fails_leaves_everything_closed(hosts, core, exported, how):
    text = f"{WHOLE}\n{AFTER_THE_START[how]}\nattach(['py_C_Initialize'], bad)"
    names = [name for name in python_functions(exported) if name != "C_Initialize"]
    said = answers(hosts("every", core.write(text), "start", *names))
    assert said.pop("C_Initialize") == GENERAL_ERROR
    assert set(said.values()) == {NOT_INITIALIZED}


def test_initialize_may_succeed_later(hosts, core):
    text = WHOLE + "rvs = [7, 0x30]\nattach(['py_C_Initialize'], lambda _: lib.FINISHED | (rvs.pop(0) if rvs else 0))"
    said = hosts(
        "every", core.write(text), "start", "C_GetInfo", "C_Initialize", "C_GetInfo", "C_Initialize", "C_GetInfo"
    )
    assert [line.split()[1] for line in said] == ["0x7", "0x190", "0x30", "0x190", "0x0", "0x0"]


def test_a_failed_start_stays_failed(hosts, core):
    said = hosts("every", core.write("1 / 0"), "start", "C_Initialize", "C_GetInfo", "C_Initialize")
    assert [line.split()[1] for line in said] == [GENERAL_ERROR, GENERAL_ERROR, NOT_INITIALIZED, GENERAL_ERROR]


def test_finalize_that_finds_no_run_closes_too(hosts, core):
    text = WHOLE + "attach(['py_C_Finalize'], lambda _: lib.FINISHED | 0x190)"
    said = hosts("every", core.write(text), "start", "C_Finalize", "C_GetInfo", "C_Initialize", "C_GetInfo")
    assert [line.split()[1] for line in said] == ["0x0", NOT_INITIALIZED, NOT_INITIALIZED, "0x0", "0x0"]


def test_whatever_the_core_prints_does_not_reach_stdout(hosts, core):
    text = WHOLE + "import sys\nprint('x')\ndef noise(*args):\n  print('y', flush=True)\n  return lib.FINISHED\n"
    text += "assert sys.stdout is sys.__stdout__ is sys.stdin is sys.__stdin__ is None\n"
    said = hosts("every", core.write(text + "attach(STUBS, noise)"), "start", "C_GetInfo")
    assert [line.split()[1] for line in said] == ["0x0", "0x0"]


def test_a_core_that_comes_back_to_initialize(hosts, core, tmp_path):
    """What Python loads may load us: OpenSSL with an engine of PKCS#11."""
    answer = tmp_path / "answer"
    text = f"{WHOLE}\nimport ctypes\nus = ctypes.CDLL({str(core.module)!r})\n"
    text += f"open({str(answer)!r}, 'w').write(f'{{us.C_Initialize(None)}} {{us.C_GetInfo(None)}}')\n"
    said = hosts("every", core.write(text), "start", "C_GetInfo")
    assert [line.split()[1] for line in said] == ["0x0", "0x0"]
    assert answer.read_text() == f"{5} {0x190}"


@pytest.mark.parametrize("kib", [0, 100, 1000, 4000])
def test_too_little_memory_to_try_may_be_tried_again(hosts, user, kib):
    said = answers(hosts("memory", user.module, str(kib), env=user.env))
    assert said == {"C_Initialize": "0x2", "C_Login": NOT_INITIALIZED, "again": "0x0"}


@pytest.mark.parametrize("kib", [*range(4200, 9000, 300), 12000, 20000])
def test_memory_that_ends_during_the_start(hosts, user, kib):
    said = answers(hosts("memory", user.module, str(kib), env=user.env))
    initialized = said.pop("C_Initialize")
    if initialized == "0x0":
        assert said == {"C_Login": "0xb3", "again": "0x191"}
    else:
        assert initialized in {GENERAL_ERROR, "0x2"}
        assert said.pop("C_Login") == NOT_INITIALIZED
        assert said["again"] in {GENERAL_ERROR, "0x0"}


def test_before_initialize(hosts, module_path, exported):
    names = [name for name in python_functions(exported) if name != "C_Initialize"]
    said = answers(hosts("every", module_path, "bare", *names))
    assert set(said.values()) == {NOT_INITIALIZED}
