"""Where the settings come from, which ones are taken, and what is said about the others."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from p11tpm.ck import CKM, CKR
from p11tpm.error import Error
from p11tpm.host import config as module
from p11tpm.host.config import Choice, Config

DEFAULTS = {
    "tcti": "device:/dev/tpmrm0",
    "token": None,
    "bus": "untrusted",
    "mechanisms": None,
    "pin_file": "",
    "pin_credential": False,
    "pin_tries": 5,
    "pin_min": 4,
    "log": "syslog",
    "log_level": "error",
    "log_uses": False,
}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Keep the settings of this machine and of who runs the tests out."""
    ours = ("P11TPM_CONF", "P11TPM_STORE", "P11TPM_TCTI")
    for name in (*ours, "XDG_CONFIG_HOME", "XDG_DATA_HOME", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(module, "SYSTEM", str(tmp_path / "etc.conf"))


@pytest.fixture
def user(home, monkeypatch):
    """The home directory of the user that `as_nobody` runs as."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(module, "SYSTEM", str(home / "etc.conf"))
    return home


def values(config: Config) -> dict[str, object]:
    return {name: getattr(config, name) for name in (*DEFAULTS, "store")}


def refused(text: str | bytes, tmp_path: Path) -> str:
    path = tmp_path / "etc.conf"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Error) as caught:
        Config.load()
    assert caught.value.rv == CKR.GENERAL_ERROR
    return caught.value.why


def test_defaults(user, as_nobody):
    assert as_nobody(lambda: values(Config.load())) == {**DEFAULTS, "store": f"{user}/.local/share/p11tpm"}


@pytest.mark.usefixtures("root")
def test_the_store_of_root():
    assert Config.load().store == "/var/lib/p11tpm"


def test_every_setting(tmp_path):
    (tmp_path / "etc.conf").write_text(
        "# a comment\n\n  store = /srv/keys/ \ntcti=swtpm:host=::1,port=2321\ntoken = my = token #1  # the one\n"
        "pin-file = ~/pin\nbus = trusted\nmechanisms = CKM_ECDSA,CKM_SHA256\n"
        "pin-tries = 10\r\npin-min-length=8\nlog = /var/log/p11tpm.log\nlog-level = debug\nlog-uses = yes"
    )
    assert values(Config.load()) == {
        "store": "/srv/keys",
        "tcti": "swtpm:host=::1,port=2321",
        "bus": "trusted",
        "token": "my = token",
        "mechanisms": Choice(frozenset({CKM.ECDSA, CKM.SHA256}), denied=False),
        "pin_file": f"{tmp_path}/pin",
        "pin_credential": False,
        "pin_tries": 10,
        "pin_min": 8,
        "log": "/var/log/p11tpm.log",
        "log_level": "debug",
        "log_uses": True,
    }


def test_every_setting_is_in_the_example(tmp_path):
    example = Path(__file__).parents[2] / "conf.example"
    named = re.findall(r"^# ([a-z-]+) = ", example.read_text(), re.MULTILINE)
    assert f"the settings are {', '.join(named)}" in refused("x = y", tmp_path)
    config = Config()
    config.read(str(example))
    assert values(config) == {**DEFAULTS, "store": ""}


def test_the_order_of_files_and_environment(tmp_path, monkeypatch):
    (tmp_path / "etc.conf").write_text("store = /etc/store\ntcti = device:etc\npin-tries = 2\n")
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "p11tpm.conf").write_text("tcti = device:own\ntoken = own\n")
    config = Config.load()
    assert (config.store, config.tcti, config.pin_tries, config.token) == ("/etc/store", "device:own", 2, "own")
    (tmp_path / "xdg").mkdir()
    (tmp_path / "xdg" / "p11tpm.conf").write_text("tcti = device:xdg\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    config = Config.load()
    assert (config.tcti, config.token) == ("device:xdg", None)
    (tmp_path / "named.conf").write_text("tcti = device:named\nstore = ~/named\n")
    monkeypatch.setenv("P11TPM_CONF", str(tmp_path / "named.conf"))
    config = Config.load()
    assert (config.tcti, config.store, config.pin_tries) == ("device:named", f"{tmp_path}/named", 5)
    monkeypatch.setenv("P11TPM_TCTI", "device:env")
    monkeypatch.setenv("P11TPM_STORE", "/env/store/")
    config = Config.load()
    assert (config.tcti, config.store) == ("device:env", "/env/store")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("stroe = /x", "this setting is not known; the settings are store, tcti"),
        ("store", "write 'store = value'"),
        ("store =", "write 'store = value'"),
        ("= x", "this setting is not known"),
        ("store = keys", "write an absolute path"),
        ("store = ./keys", "write an absolute path"),
        ("pin-file = pin", "write an absolute path"),
        ("pin-tries = 0", "write a number from 1 to 10"),
        ("pin-tries = 11", "write a number from 1 to 10"),
        ("pin-tries = five", "write a number from 1 to 10"),
        ("pin-tries = ٣", "write a number from 1 to 10"),
        ("pin-min-length = -1", "write a number from 4 to 128"),
        ("log = syslogd", "write syslog, stderr, off or an absolute path"),
        ("log-level = 3", "write error, debug"),
        ("log-uses = true", "write no, yes"),
        ("bus = yes", "write untrusted, trusted"),
        ("pin-tries = " + "1" * 5000, "write a number from 1 to 10"),
        ("mechanisms = CKM_ECDSA CKM_NONSENSE", "name 2 is not that of a mechanism"),
        ("mechanisms = ECDSA", "name 1 is not that of a mechanism"),
        ("mechanisms = -", "name 1 is not that of a mechanism"),
        ("mechanisms = ,", r"write * or the names of mechanisms"),
        ("mechanisms = , ,,", r"write * or the names of mechanisms"),
        ("mechanisms = CKM_ECDSA -CKM_SHA256", "not both"),
        ("token = a\ntoken = b", "'token' is set twice"),
        (b"token = \xff", "it is not UTF-8 text"),
        (b"token\0 = x", "it has a control character"),
        ("store = /x\rlog = off", "it has a control character"),
        ("store = /x\r", "it has a control character"),
        ("# a comment\rstore = /x", "it has a control character"),
        ("tcti = a\tb", "it has a control character"),
        *((f"store = /x{character}y", "it has a control character") for character in "\0\t\v\f\x1b\x1f\x7f\x85\u2028"),
        *((f"store = /x{character}", "it has a control character") for character in "\v\x1c\x1f\x85\u2029"),
    ],
)
def test_what_can_not_be_used_is_named_with_file_and_line(tmp_path, line, why):
    start = b"# first line\n\n"
    text = start + (line if isinstance(line, bytes) else line.encode())
    number = text.count(b"\n") + 1
    message = refused(text, tmp_path)
    assert message.startswith(f"{tmp_path}/etc.conf:{number}: ")
    assert why in message
    assert message.isprintable()


@pytest.mark.parametrize(
    "line", ["123456", "secret=123456", "store = 123456", "pin-tries = 123456", "mechanisms = 123456", "log = 123456"]
)
@pytest.mark.parametrize("more", ["", "\r", "\0", "\udcff"])
def test_what_a_line_says_is_never_shown(tmp_path, line, more):
    """The file may be the one with the PIN."""
    message = refused((line + more).encode(errors="surrogateescape"), tmp_path)
    assert message.startswith(f"{tmp_path}/etc.conf:1: ")
    assert "123456" not in message.removeprefix(str(tmp_path))


def test_marks_of_encodings(tmp_path):
    (tmp_path / "etc.conf").write_bytes(b"\xef\xbb\xbfpin-tries = 3\r\nlog = off\r\n")
    assert (Config.load().pin_tries, Config.load().log) == (3, "off")
    for encoding in ("utf-16", "utf-16-be", "utf-16-le", "utf-32"):
        message = refused("\ufeffpin-tries = 3\n".encode(encoding).replace(b"\xff\xfe" * 2, b"\xff\xfe"), tmp_path)
        assert "etc.conf: it is UTF-16: write it as UTF-8" in message
    assert "control character" in refused("pin-tries = 3\n".encode("utf-16-le"), tmp_path)


def test_tabs_are_blanks(tmp_path):
    (tmp_path / "etc.conf").write_text("\tpin-tries\t=\t3\t\nmechanisms = CKM_ECDSA,\tCKM_SHA256\t # two\n")
    config = Config.load()
    assert (config.pin_tries, config.mechanisms) == (3, Choice(frozenset({CKM.ECDSA, CKM.SHA256}), denied=False))


def test_files_that_others_may_write_to_are_refused(user, as_nobody, monkeypatch):
    file = user / "named.conf"
    monkeypatch.setenv("P11TPM_CONF", str(file))

    def load() -> str:
        return as_nobody(Config.load).tcti

    def make() -> None:
        file.write_text("tcti = device:named\n")
        file.chmod(0o600)

    as_nobody(make)
    assert load() == "device:named"
    for path, bits in ((file, 0o620), (file, 0o602), (user, 0o775)):
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(bits)
        with pytest.raises(Error, match="may write to"):
            load()
        path.chmod(before)
    as_nobody(lambda: (user / "link.conf").symlink_to("named.conf"))
    monkeypatch.setenv("P11TPM_CONF", str(user / "link.conf"))
    assert load() == "device:named"
    file.chmod(0o620)
    with pytest.raises(Error, match="may write to"):
        load()


@pytest.mark.usefixtures("root")
def test_files_of_another_user_are_refused(user, as_nobody, monkeypatch):
    file = user / "named.conf"
    file.write_text("")
    os.chown(file, 65533, 65533)
    monkeypatch.setenv("P11TPM_CONF", str(file))
    with pytest.raises(Error, match="belongs to another user"):
        as_nobody(Config.load)


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "large", "unreadable"])
def test_a_named_file_must_be_a_file(user, as_nobody, monkeypatch, kind):
    path = user / "p11tpm.conf"

    def work() -> Config:
        if kind == "directory":
            path.mkdir(0o700)
        elif kind == "fifo":
            os.mkfifo(path, 0o600)
        elif kind != "missing":
            path.write_text("#" * 70_000 if kind == "large" else "")
            path.chmod(0 if kind == "unreadable" else 0o600)
        return Config.load()

    monkeypatch.setenv("P11TPM_CONF", str(path))
    with pytest.raises(Error, match=re.escape(str(path))):
        as_nobody(work)


def test_a_user_may_have_no_pin_file(tmp_path):
    (tmp_path / "etc.conf").write_text("pin-file = /etc/p11tpm/pin\n")
    assert Config.load().pin_file == "/etc/p11tpm/pin"
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "p11tpm.conf").write_text("pin-file = none\n")
    assert Config.load().pin_file == ""


def test_a_credential_is_the_pin_file(tmp_path, monkeypatch):
    (tmp_path / "etc.conf").write_text("pin-file = /etc/p11tpm/pin\n")
    credential = tmp_path / "credentials" / "p11tpm.pin"
    credential.parent.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credential.parent))
    assert (Config.load().pin_file, Config.load().pin_credential) == ("/etc/p11tpm/pin", False)
    credential.touch()
    assert (Config.load().pin_file, Config.load().pin_credential) == (str(credential), True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "credentials")
    assert not Config.load().pin_credential


def test_one_pin_is_not_for_all_tokens(tmp_path, monkeypatch):
    assert "'pin-file' (/etc/pin) is the PIN of one token, 'token = *' shows all" in refused(
        "token = *\npin-file = /etc/pin\n", tmp_path
    )
    (tmp_path / "p11tpm.pin").touch()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert f"{tmp_path}/p11tpm.pin" in refused("token = *\n", tmp_path)
    (tmp_path / "etc.conf").write_text("token = one\n")
    assert Config.load().pin_credential


@pytest.mark.parametrize("name", ["P11TPM_STORE", "P11TPM_CONF", "P11TPM_TCTI"])
@pytest.mark.parametrize("character", "\n\r\t\x1b\x7f\x9b")
def test_control_characters_in_the_environment_are_refused(monkeypatch, name, character):
    monkeypatch.setenv(name, f"/x{character}y")
    with pytest.raises(Error, match=f"^{name} has a control character: set it to text$"):
        Config.load()


@pytest.mark.parametrize("name", ["P11TPM_STORE", "P11TPM_CONF"])
def test_paths_from_the_environment_are_absolute(monkeypatch, name):
    monkeypatch.setenv(name, "here")
    with pytest.raises(Error, match=f"{name} is not an absolute path"):
        Config.load()


@pytest.mark.parametrize("hidden", [".config", ""])
def test_a_directory_of_the_user_that_may_not_be_searched_has_no_settings(user, as_nobody, monkeypatch, hidden):
    """As a unit's ProtectHome=yes and InaccessiblePaths= make it: mode 000, for root without capabilities too."""
    path = user / hidden
    path.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("P11TPM_STORE", "/srv/keys")
    monkeypatch.setattr(module, "SYSTEM", "/nowhere/p11tpm.conf")
    before = path.stat().st_mode
    path.chmod(0)
    try:
        assert as_nobody(lambda: values(Config.load())) == {**DEFAULTS, "store": "/srv/keys"}
    finally:
        path.chmod(before)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("link", [False, True])
def test_a_file_of_the_user_that_is_there_and_may_not_be_read_is_refused(user, as_nobody, link):
    (user / ".config").mkdir()
    path = user / ".config" / "p11tpm.conf"
    target = user / "closed" / "p11tpm.conf" if link else path
    target.parent.mkdir(exist_ok=True)
    target.write_text("token = web\n")
    target.chmod(0)
    if link:
        path.symlink_to(target)
        target.parent.chmod(0)
    with pytest.raises(Error, match=r"\.config/p11tpm\.conf: Permission denied") as caught:
        as_nobody(Config.load)
    assert caught.value.rv == CKR.GENERAL_ERROR


@pytest.mark.usefixtures("root")
def test_settings_of_all_users_that_may_not_be_reached_are_refused(user, as_nobody, monkeypatch):
    (user / "etc").mkdir(mode=0)
    monkeypatch.setattr(module, "SYSTEM", str(user / "etc" / "p11tpm.conf"))
    with pytest.raises(Error, match="Permission denied"):
        as_nobody(Config.load)


@pytest.mark.parametrize("value", [None, "", "relative", "/", "/nowhere"])
def test_a_home_of_another_user_is_not_ours(user, as_nobody, monkeypatch, value):
    assert as_nobody(lambda: Config.load().store).startswith(str(user))
    if value is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", value)
    uid = 65534 if os.geteuid() == 0 else os.geteuid()
    assert as_nobody(lambda: Config.load().store) == f"{pwd.getpwuid(uid).pw_dir}/.local/share/p11tpm"


@pytest.mark.usefixtures("root")
def test_directories_of_another_user_in_the_environment_are_not_ours(user, as_nobody, monkeypatch):
    theirs = user / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65533, 65533)
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(theirs))
    (theirs / "p11tpm.conf").write_text("nonsense")
    assert as_nobody(lambda: Config.load().store) == f"{user}/.local/share/p11tpm"
    monkeypatch.setenv("XDG_DATA_HOME", str(user / "data"))
    assert as_nobody(lambda: Config.load().store) == f"{user}/data/p11tpm"
    monkeypatch.setenv("XDG_DATA_HOME", "data")
    assert as_nobody(lambda: Config.load().store) == f"{user}/.local/share/p11tpm"


def test_a_user_without_a_home_has_to_say_where():
    code = "import os; os.environ.pop('HOME', 0); os.setuid(54321); " if os.geteuid() == 0 else ""
    if not code:
        pytest.skip("needs root: becomes a user that does not exist")
    code = f"import pwd, p11tpm._native; from p11tpm.host.config import Config; {code}\nConfig.load()"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert "uid 54321 has no home directory: set 'store' in /etc/p11tpm.conf" in done.stderr


@pytest.mark.usefixtures("root")
def test_a_program_with_more_rights_than_its_caller_reads_no_environment(tmp_path):
    """The kernel sets AT_SECURE for a program of another effective group, too, which is the harmless way to get it."""
    program = tmp_path / "python"
    shutil.copy(Path(sys.executable).resolve(), program)
    paths = [str(Path(module.__file__).parents[1]), sysconfig.get_path("platlib")]
    code = f"import sys; sys.path += {paths}; from p11tpm.host import config; config.SYSTEM = '/nowhere'; "
    code += "config = config.Config.load(); print(config.store, config.tcti, config.pin_credential)"
    environment = {"P11TPM_STORE": "/env/store", "P11TPM_TCTI": "cmd:id", "HOME": "/env", "XDG_DATA_HOME": "/env"}
    environment["CREDENTIALS_DIRECTORY"] = str(tmp_path)
    (tmp_path / "p11tpm.pin").touch()

    def run(**more: str) -> str:
        command = [program, "-E", "-S", "-c", code]
        done = subprocess.run(
            command, env={**environment, **more}, check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip()

    assert run() == "/env/store cmd:id True"
    os.chown(program, 0, 65533)
    program.chmod(0o2755)
    assert run(P11TPM_CONF="/env/conf") == "/var/lib/p11tpm device:/dev/tpmrm0 False"
