"""Whatever goes wrong, nothing is written to descriptors 0, 1 and 2, which may be a peer's socket."""

from __future__ import annotations

import os

import pytest

import rig
from host.core import WHOLE
from host.test_broken import AFTER_THE_START, NOT_LOADING

OK, HOST_MEMORY, GENERAL_ERROR, NOT_INITIALIZED = "0x0", "0x2", "0x5", "0x190"
STEPS = ["C_Initialize", "C_GetSlotList", "C_OpenSession", "C_Login", "C_FindObjectsInit", "C_FindObjects",
         "C_FindObjectsFinal", "C_SignInit", "C_Sign", "C_GenerateRandom", "C_Finalize"]  # fmt: skip


def answers(said):
    """Return what each function answered; that the peer has received something is not an answer."""
    assert not [line for line in said if not line.startswith("C_")]
    return dict(line.split() for line in said)


def test_all_is_well(hosts, user):
    assert answers(hosts("quiet", user.module, env=user.env)) == dict.fromkeys(STEPS, OK)


@pytest.mark.parametrize("descriptors", [0, 4, *range(6, 14)])
def test_a_host_out_of_descriptors(hosts, user, syslog, descriptors):
    said = answers(hosts("quiet", user.module, "nofile", str(descriptors), env={**user.env, **syslog.env}))
    assert set(said.values()) <= {OK, HOST_MEMORY, GENERAL_ERROR, NOT_INITIALIZED, "0x6", "0x30", "0x60", "0xb3"}
    if descriptors <= 4:
        assert said.pop("C_Initialize") == GENERAL_ERROR
        assert set(said.values()) == {NOT_INITIALIZED}


def test_memory_that_ends(hosts, user):
    for kib in (0, 1000, 4000, *range(4200, 16000, 1200)):
        said = answers(hosts("quiet", user.module, "memory", str(kib), env=user.env))
        assert said["C_Initialize"] in {OK, HOST_MEMORY, GENERAL_ERROR}, kib


@pytest.mark.parametrize("how", [*NOT_LOADING, *AFTER_THE_START])
def test_a_core_that_is_broken(hosts, core, syslog, how):
    text = NOT_LOADING.get(how)
    if how in AFTER_THE_START:
        text = f"{WHOLE}\n{AFTER_THE_START[how]}\nattach(STUBS, bad)"
    said = answers(hosts("quiet", core.write(text), env=rig.clean_env(**syslog.env)))
    assert said.pop("C_Initialize") == GENERAL_ERROR
    assert set(said.values()) == {NOT_INITIALIZED}
    if how in NOT_LOADING:
        (line,) = syslog.lines()
        assert "the Python code of the module does not load; is the installation complete? (" in line


def test_the_reason_of_a_core_that_does_not_load_is_logged(hosts, core, syslog):
    hosts("quiet", core.write("import no_such_module"), env=rig.clean_env(**syslog.env))
    (line,) = syslog.lines()
    assert f"({core.directory}: ModuleNotFoundError: No module named 'no_such_module')" in line


@pytest.mark.skipif(os.getuid() != 0, reason="only root can change the root directory")
def test_no_python(hosts, user, tmp_path):
    said = answers(hosts("quiet", user.module, "root", tmp_path, env=user.env))
    assert said.pop("C_Initialize") == GENERAL_ERROR
    assert set(said.values()) == {NOT_INITIALIZED}


@pytest.mark.parametrize(
    "tcti",
    ["device:/nowhere", "device:/dev/null", "swtpm:host=127.0.0.1,port=1", "swtpm:path=/nowhere",
     "swtpm:path=" + 200 * "x", "tabrmd:bus_name=no.such.name",
     "nonsense", "nonsense:nonsense", "mssim:host=127.0.0.1,port=1", "cmd:false", "cmd:echo x >&2; false"],
)  # fmt: skip
def test_no_tpm(hosts, user, syslog, tcti):
    said = answers(hosts("quiet", user.module, env={**user.env, **syslog.env, "P11TPM_TCTI": tcti}))
    assert said["C_Initialize"] == OK
    assert said["C_Login"] not in {OK, "0xa0"}
    assert syslog.lines()


@pytest.mark.parametrize("store", ["/nowhere", "/dev/null", "/proc", "/dev/null/below"])
def test_no_store(hosts, user, store):
    said = answers(hosts("quiet", user.module, env={**user.env, "P11TPM_STORE": store}))
    assert said["C_Initialize"] == OK
    assert said["C_OpenSession"] != OK


@pytest.mark.parametrize(
    "content", ["nonsense\n", "log = nonsense\n", "pin-tries = 0\n", "\xff\n", "log = /nowhere/log\n"]
)
def test_settings_that_are_wrong(hosts, user, syslog, tmp_path, content):
    settings = tmp_path / "p11tpm.conf"
    rig.write_secret(settings, content)
    said = answers(hosts("quiet", user.module, env={**user.env, **syslog.env, "P11TPM_CONF": str(settings)}))
    assert said["C_Initialize"] == (OK if "/nowhere/log" in content else GENERAL_ERROR)
    assert bool(syslog.lines()) == (said["C_Initialize"] != OK)


def test_a_log_that_is_stderr_is_written_to(hosts, user, tmp_path):
    """It shows that the peer's socket tells what comes."""
    settings = tmp_path / "p11tpm.conf"
    rig.write_secret(settings, "log = stderr\n")
    env = {**user.env, "P11TPM_CONF": str(settings), "P11TPM_TCTI": "device:/nowhere"}
    assert [line for line in hosts("quiet", user.module, env=env) if "peer has received" in line]
