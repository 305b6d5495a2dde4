"""The shared object itself: what it exports, how it is linked, the lists in it; and the builder."""

from __future__ import annotations

import importlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from host.core import Core

CHECKOUT = Path(__file__).resolve().parents[2]
# Base Specification 3.0, CK_FUNCTION_LIST_3_0
ADDED_BY_3_0 = [
    "C_GetInterfaceList", "C_GetInterface", "C_LoginUser", "C_SessionCancel",
    "C_MessageEncryptInit", "C_EncryptMessage", "C_EncryptMessageBegin", "C_EncryptMessageNext",
    "C_MessageEncryptFinal", "C_MessageDecryptInit", "C_DecryptMessage", "C_DecryptMessageBegin",
    "C_DecryptMessageNext", "C_MessageDecryptFinal", "C_MessageSignInit", "C_SignMessage",
    "C_SignMessageBegin", "C_SignMessageNext", "C_MessageSignFinal", "C_MessageVerifyInit",
    "C_VerifyMessage", "C_VerifyMessageBegin", "C_VerifyMessageNext", "C_MessageVerifyFinal",
]  # fmt: skip


def readelf(option, file):
    return subprocess.run(
        ["readelf", "-W", option, file], capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_exports_the_functions_of_the_standard_and_nothing_else(exported):
    assert len(exported) == 92
    assert all(re.fullmatch("C_[A-Z][A-Za-z]+", name) for name in exported)


def test_link(module_path):
    dynamic = readelf("-d", module_path)
    flags = re.search(r"\(FLAGS_1\).*", dynamic).group()
    assert {"NOW", "NODELETE"} <= set(flags.replace(",", " ").split())
    assert "BIND_NOW" in dynamic
    assert "SYMBOLIC" in dynamic
    assert "TEXTREL" not in dynamic
    stack = re.search(r"GNU_STACK\s.*", readelf("-l", module_path)).group()
    assert " RWE " not in stack
    assert " RW " in stack
    assert "GNU_RELRO" in readelf("-l", module_path)
    (library,) = re.findall(r"\(NEEDED\).*\[(libpython.*)\]", dynamic)
    (rpath,) = re.findall(r"\(RPATH\).*\[(.*)\]", dynamic)
    assert (Path(rpath) / library).exists()


@pytest.fixture(scope="module", params=["module", "extension"])
def shared_object(request, module_path):
    return module_path if request.param == "module" else importlib.import_module("p11tpm._native").__file__


def test_hardening(shared_object):
    assert "GNU_RELRO" in readelf("-l", shared_object)
    assert "NOW" in re.search(r"\(FLAGS_1\).*", readelf("-d", shared_object)).group()
    symbols = readelf("--dyn-syms", shared_object)
    assert "__stack_chk_fail" in symbols
    assert {"__explicit_bzero_chk", "__snprintf_chk", "__strcpy_chk"} <= set(re.findall(r"__\w+_chk\b", symbols))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instructions of x86-64 are looked for")
def test_hardening_of_functions(module_path):
    entry = disassembled(module_path, "C_Sign")
    assert "endbr64" in entry[0]  # a jump may end here: -fcf-protection
    large = disassembled(module_path, "wipe_stack")
    assert any(
        "$0x0,(%rsp)" in line for line in large
    )  # each page of a large frame is touched: -fstack-clash-protection


def disassembled(file, function):
    command = ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={function}", file]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return text.partition(f"<{function}>:\n")[2].splitlines()


def test_is_a_regular_file(module_path):
    assert not Path(module_path).is_symlink()
    assert Path(module_path).stat().st_mode & 0o777 == 0o755


def test_lists_and_interfaces(hosts, module_path):
    assert hosts("interfaces", module_path, *ADDED_BY_3_0) == [
        "list 2.40",
        "list to NULL 0x7",
        "interfaces to NULL 0x7",
        "interfaces of 1 0x150 2",
        "interfaces asked 0x0 2",
        "interfaces of 3 0x0 2",
        "interface PKCS 11 3.0 0",
        "interface PKCS 11 2.40 0",
        "to NULL 0x7",
        "default PKCS 11 3.0 0",
        "by name PKCS 11 3.0 0",
        "2.40 PKCS 11 2.40 0",
        "3.0 PKCS 11 3.0 0",
        "3.1 0x7",
        "3.2 0x7",
        "other name 0x7",
        "fork safe 0x7",
        "compared",
    ]


@pytest.mark.parametrize("flags", [(), ("-rdynamic",)], ids=["plain", "exporting"])
def test_functions_of_the_same_names_in_the_program_do_not_get_into_the_list(hosts, core, flags):
    module = core.write("import no_such_module")
    said = hosts(hosts.program("impostor", *flags), module)
    assert said == ["C_GetInfo 0x190", "C_Login 0x190", "C_Initialize 0x5"]


def header_with_3_0(directory):
    """Make a system whose header of PKCS#11 has everything of 3.0; give the environment that finds it."""
    flags = subprocess.run(
        ["pkg-config", "--cflags", "p11-kit-1"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    include = next(Path(flag[2:]) for flag in flags.split() if (Path(flag[2:]) / "p11-kit/pkcs11.h").exists())
    old = (include / "p11-kit/pkcs11.h").read_text()
    if "C_GetInterfaceList" in old:
        pytest.skip("the header of this system has 3.0 already: the other tests are about it")
    new = directory / "p11-kit" / "pkcs11.h"
    new.parent.mkdir()
    names = re.findall(r"(?<=CK_C_)\w+(?= C_)", old) + [name[2:] for name in ADDED_BY_3_0]
    members = "".join(f"__typeof__(C_{name}) *C_{name};\n" for name in names)
    list_3_0 = f"struct ck_function_list_3_0 {{ CK_VERSION version;\n{members}}};\n"
    typedef = "typedef struct ck_function_list_3_0 CK_FUNCTION_LIST_3_0;\n"
    more = (CHECKOUT / "csrc" / "pkcs11_3_0.h").read_text()
    new.write_text(
        f"{old}\n#ifndef MORE\n#define MORE\n{more}{list_3_0}{typedef}#endif\n".replace("__typeof__", "TYPE")
    )
    text = new.read_text()
    for name in names:  # pycparser knows no __typeof__, and headers have none
        text = text.replace(f"TYPE(C_{name}) *C_{name};", f"void (*C_{name})(void);")
    new.write_text(text)
    (directory / "p11-kit-1.pc").write_text(f"Name: p11-kit\nDescription: \nVersion: 1\nCflags: -I{directory}\n")
    return {**os.environ, "PKG_CONFIG_PATH": str(directory)}


def build_py(*arguments, env=None):
    command = [sys.executable, str(CHECKOUT / "csrc" / "build.py"), *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_a_system_header_of_version_3_0(hosts, core, tmp_path):
    core.write("")
    module = tmp_path / "p11tpm.so"
    done = build_py("--module", module, "--package", core.directory, env=header_with_3_0(tmp_path))
    assert done.returncode == 0, done.stderr
    assert hosts("interfaces", module, *ADDED_BY_3_0)[-2:] == ["fork safe 0x7", "compared"]


def test_a_warning_is_an_error_of_the_check_only(core, tmp_path):
    core.write("")
    (tmp_path / "more.h").write_text("static int unused;\n")
    env = {**os.environ, "CC": f"gcc -include {tmp_path}/more.h"}
    assert build_py("--module", tmp_path / "p11tpm.so", "--package", core.directory, env=env).returncode == 0
    before = sorted(tmp_path.rglob("*"))
    done = build_py("--module", tmp_path / "other.so", "--check", env=env)
    assert done.returncode == 1
    assert "-Werror=unused-variable" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_path_that_is_hard_to_write_in_c(hosts, tmp_path):
    place = tmp_path / 'a "\\x41" ö 日本 %s ??( \udcff'
    place.mkdir()
    core = Core(place)
    core.write("raise SystemExit")
    assert hosts("every", core.module, "start") == ["C_Initialize 0x5"]


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"PKG_CONFIG_LIBDIR": "/nowhere", "PKG_CONFIG_PATH": ""}, "p11-kit-1 is missing: install .* libp11-kit-dev"),
        ({"CC": "no-such-compiler"}, "no-such-compiler is missing"),
        ({"PATH": "/nowhere"}, "gcc is missing: install Debian's package gcc"),
    ],
    ids=["header", "compiler", "nothing"],
)
def test_the_builder_says_what_is_missing(tmp_path, environment, says):
    done = build_py("--module", tmp_path / "new.so", env={**os.environ, **environment})
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(says, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_python_without_a_shared_library(tmp_path):
    program = """
import runpy, sys, sysconfig
sysconfig.get_config_vars()["INSTSONAME"] = "libpython3.a"
sys.path.insert(0, sys.argv[1])
del sys.argv[1]
runpy.run_path(sys.path[0] + "/build.py", run_name="__main__")
"""
    command = [sys.executable, "-c", program, str(CHECKOUT / "csrc"), "--module", str(tmp_path / "new.so")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch("build.py: .* has no shared libpython.*--enable-shared.*\n", done.stderr)
    assert not list(tmp_path.iterdir())
