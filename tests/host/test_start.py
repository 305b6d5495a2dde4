"""Python starts in the host, whatever the host is like, and leaves it as it was."""

from __future__ import annotations

import subprocess
import sysconfig

import pytest

import rig
from host.plant import PYTHON, WAYS, Plant


@pytest.mark.parametrize("how", [(), ("global",), ("closed",), ("mdwe",), ("global", "mdwe")], ids="-".join)
def test_sign(hosts, user, is_good, how):
    said = hosts("sign", user.module, *how, env=user.env)
    assert is_good(said)


@pytest.mark.parametrize("use", ["used", "unused"])
def test_load_and_unload_fifty_times(hosts, user, use):
    assert hosts("reload", user.module, use, "50", env=user.env) == ["after 0x190"]


def test_loading_alone_starts_nothing(hosts, module_path, tmp_path):
    trace = tmp_path / "trace"
    core = tmp_path / "empty"
    core.mkdir()
    env = rig.clean_env(P11TPM_STORE=str(core), LD_DEBUG="files", LD_DEBUG_OUTPUT=str(trace))
    assert hosts("reload", module_path, "unused", "1", env=env) == ["after 0x190"]
    loaded = "".join(file.read_text() for file in tmp_path.glob("trace.*"))
    assert "libpython" in loaded
    assert "_cffi_backend" not in loaded
    assert not list(core.iterdir())


@pytest.mark.parametrize("somebody", ["user", "owner"], ids=["tabrmd", "swtpm"])
def test_the_process_is_as_it_was(hosts, request, somebody):
    owner = request.getfixturevalue(somebody)
    assert hosts("untouched", owner.module, env=owner.env) == ["compared"]


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX", "tr_TR.ISO-8859-9", "nonsense"])
def test_any_locale(hosts, user, is_good, locale):
    assert is_good(hosts("sign", user.module, env={**user.env, "LANG": locale, "LC_ALL": locale}))


# -- code that somebody planted


@pytest.fixture(scope="session")
def usual(hosts):
    """A program that embeds the same Python in the usual way."""
    flags = [f"-I{sysconfig.get_path('include')}", f"-L{sysconfig.get_config_var('LIBDIR')}"]
    more = [f"-Wl,-rpath,{sysconfig.get_config_var('LIBDIR')}", f"-l{PYTHON}"]
    return hosts.program("usual", "-Wno-error", *flags, *more)


@pytest.mark.parametrize("way", WAYS)
def test_planted_code_runs_in_a_usual_host(usual, tmp_path, way):
    plant = Plant(tmp_path).sow(way)
    done = subprocess.run(
        [usual], env=plant.env, cwd=plant.cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert plant.ran()


@pytest.mark.parametrize("way", WAYS)
def test_planted_code_does_not_run(hosts, user, is_good, tmp_path, way):
    plant = Plant(tmp_path).sow(way)
    more = {"PYTHONSTARTUP": str(plant.cwd / "os.py"), **plant.env}
    assert is_good(hosts("sign", user.module, env={**user.env, **more}, cwd=plant.cwd))
    assert not plant.ran()


def test_a_bad_pythonhome_ends_a_usual_host_but_not_ours(hosts, usual, user, is_good):
    env = {**user.env, "PYTHONHOME": "/nowhere"}
    assert subprocess.run([usual], env=env, capture_output=True, timeout=60, check=False).returncode != 0
    assert is_good(hosts("sign", user.module, env=env))


@pytest.mark.parametrize(
    "variable",
    ["PYTHONMALLOC=nonsense", "PYTHONHASHSEED=nonsense", "PYTHONVERBOSE=1", "PYTHONINSPECT=1", "PYTHONUTF8=2",
     "PYTHONIOENCODING=nonsense", "PYTHONPLATLIBDIR=nonsense", "PYTHONWARNINGS=error", "PYTHONDEVMODE=1",
     "PYTHONFAULTHANDLER=1", "PYTHONTRACEMALLOC=1", "PYTHONCOERCECLOCALE=1", "PYTHONPROFILEIMPORTTIME=1"],
)  # fmt: skip
def test_variables_of_python_are_not_read(hosts, user, is_good, variable):
    name, _, value = variable.partition("=")
    assert is_good(hosts("sign", user.module, env={**user.env, name: value}))
