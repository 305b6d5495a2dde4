"""Whatever happens in a command, its user reads one plain sentence: no traceback, no warning, no secret."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys

import pytest

from certificates import ODD, armored
from command import failed, good
from conftest import CLI, USER_PIN

# A fault in the middle of a command, with data in its text and in its frames
FAULT = f"""if True:
    import sys
    from p11tpm.cli import main, recipe
    from p11tpm.cli.recipe import Recipe
    def broken(self, name, values):
        pin = secret = {USER_PIN!r}
        try:
            int(f"{{pin}} is the PIN")
        except ValueError as error:
            raise KIND("the PIN is " + pin) from error
    Recipe.__init__ = broken
    sys.argv = ["p11tpm", "recipe", "--json"]
    main()
"""


@pytest.fixture
def env(host_env, tmp_path):
    """The environment of a user with a home."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return {**host_env(tpm="device:/nowhere"), "HOME": str(home)}


@pytest.fixture
def report(tmp_path):
    return tmp_path / "home" / ".local" / "state" / "p11tpm" / "report.txt"


def python(code, env):
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "kind", ["KeyError", "AssertionError", "RecursionError", "MemoryError", "UnicodeError", "OSError"]
)
def test_a_fault_is_one_line_and_a_report(env, report, kind):
    done = python(FAULT.replace("KIND", kind), env)
    failed(
        done, rf"^p11tpm: this is a fault of p11tpm \({kind}\): run 'p11tpm doctor', and send the report {report} to"
    )
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert stat.S_IMODE(report.parent.stat().st_mode) == 0o700
    text = report.read_text()
    assert "in broken" in text
    assert "in recipe" in text
    assert f"\n{kind}\n" in text
    assert "\nValueError\n" in text
    assert "cryptography" in text
    assert USER_PIN not in text


def test_a_report_takes_the_place_of_the_one_before(env, report):
    python(FAULT.replace("KIND", "KeyError"), env)
    report.chmod(0o644)
    (report.parent / "other").touch()
    python(FAULT.replace("KIND", "TypeError"), env)
    assert "KeyError" not in report.read_text()
    assert stat.S_IMODE(report.stat().st_mode) == 0o600


def test_a_report_follows_no_link(env, report, tmp_path):
    python(FAULT.replace("KIND", "KeyError"), env)
    report.unlink()
    other = tmp_path / "other"
    other.write_text("mine")
    report.symlink_to(other)
    python(FAULT.replace("KIND", "KeyError"), env)
    assert (other.read_text(), report.is_symlink()) == ("mine", False)


def test_a_report_that_has_no_place_goes_to_the_log(env, tmp_path):
    (tmp_path / "home" / ".local").touch()
    failed(python(FAULT.replace("KIND", "KeyError"), env), "send the report in the system's log")


@pytest.mark.parametrize("module", ["click", "cryptography", "p11tpm.error", "p11tpm.cli.root"])
def test_a_library_that_does_not_load_is_one_line(env, module):
    """Its user sees no traceback if what it loads is broken."""
    code = f"""if True:
        import sys
        sys.modules[{module!r}] = None
        from p11tpm.cli import main
        main()
    """
    failed(
        python(code, env),
        r"^p11tpm: (this is a fault of p11tpm|p11tpm cannot be loaded) \((ModuleNotFoundError|ImportError)\)",
    )


# -- warnings


WARNING = """if True:
    import sys, warnings
    from p11tpm.cli import main, _quiet
    class Loud:
        def find_spec(self, name, path, target=None):
            warnings.warn(f"{name} is old", UserWarning)
            warnings.simplefilter("always")
            warnings.warn(f"{name} is very old", DeprecationWarning)
    sys.meta_path.insert(0, Loud())
    class Sick:
        def __del__(self):
            raise ValueError("sick")
    sys.modules["sick"] = Sick()
    sys.argv = ["p11tpm", "recipe"]
    main()
"""


@pytest.mark.parametrize("asked", ["", "default", "error"])
def test_no_warning_reaches_the_user(env, asked):
    done = python(WARNING, {**env, "PYTHONWARNINGS": asked, "PYTHONDEVMODE": "1" if asked == "default" else ""})
    assert "ssh: log in" in good(done)


def test_no_warning_of_a_library_reaches_the_user(p11tpm_cli, host_env, tmp_path):
    """Libraries warn of odd serial numbers and times."""
    env = {**host_env(), "PYTHONWARNINGS": "error"}
    good(p11tpm_cli("init", "--no-pin", env=env))
    for name in ("serial 0", "serial -5", "Ed448", "year 0"):
        file = tmp_path / "x.pem"
        file.write_bytes(armored(ODD[name][0]))
        good(p11tpm_cli("cert", "import", file, env=env))
    good(p11tpm_cli("cert", "list", env=env))


# -- output that cannot be written


def shell(line, env):
    done = subprocess.run(["/bin/sh", "-c", line], env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_full_disk_is_said(env):
    command = shlex.quote(str(CLI))
    assert shell(f"{command} recipe >/dev/full", env) == (1, "", "p11tpm: No space left on device\n")
    assert shell(f"{command} --help >/dev/full", env) == (1, "", "p11tpm: No space left on device\n")
    assert shell(f"{command} recipe >&-", env)[2].startswith("p11tpm: standard output is closed")
    assert shell(f"{command} token delete nobody 2>&-", env)[0] == 1


def test_text_that_the_terminal_does_not_have_is_written_otherwise(p11tpm_cli, host_env):
    env = {**host_env(), "PYTHONIOENCODING": "latin-1"}
    good(p11tpm_cli("init", "--no-pin", "--key-label", "10 €"))
    assert "10 \\u20ac  p256" in good(p11tpm_cli("key", "list", env=env))


def test_the_place_of_the_store_may_have_any_name(env, tmp_path):
    place = os.fsencode(tmp_path) + b"/\xff"
    for command in ("doctor", "key list", "token list", "doctor --json"):
        done = subprocess.run(
            [CLI, *command.split()],
            env={**env, "P11TPM_STORE": os.fsdecode(place)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert b"Traceback" not in done.stderr
        assert b"fault of p11tpm" not in done.stderr
