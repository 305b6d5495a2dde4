"""What a file with a PIN may be, and what is said about any other."""

import os
import re
import struct

import pytest

from p11tpm.ck import CKR
from p11tpm.core.pin_file import PinFile
from p11tpm.error import Error
from rig import write_secret
from unit.conftest import NOBODY


def refused(path, **more):
    with pytest.raises(Error) as error:
        PinFile(str(path), **more).read()
    assert error.value.rv == CKR.FUNCTION_FAILED
    assert error.value.why.startswith(f"{path}: ")
    assert "123456" not in error.value.why
    return error.value.why


@pytest.fixture
def file(tmp_path):
    return write_secret(tmp_path / "pin", "123456\n")


@pytest.mark.parametrize("content", ["123456", "123456\n", "123456\r\n", "with a blank ", "x" * 128 + "\r\n"])
def test_a_pin_is_the_line_of_a_file(file, content):
    write_secret(file, content)
    assert PinFile(str(file)).read() == content.rstrip("\r\n").encode()


@pytest.mark.parametrize("content", ["", "\n", "\r\n", "123456\n\n", "\n123456", "1\n2", "x" * 129, "x" * 5000])
def test_anything_else_is_refused(file, content):
    assert "write the PIN, up to 128 bytes, and nothing else, on one line" in refused(write_secret(file, content))


def test_another_secret_is_named(file):
    assert "write the owner's secret" in refused(write_secret(file, ""), what="owner's secret")


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601])
@pytest.mark.parametrize("credential", [False, True])
def test_a_file_open_to_others_is_refused(file, mode, credential):
    file.chmod(mode)
    if credential and mode == 0o640:
        assert PinFile(str(file), credential=True).read() == b"123456"
    else:
        assert f"chmod 600 {file}" in refused(file, credential=credential)


def test_a_credential_of_systemd(home, as_nobody, root):  # noqa: ARG001
    """A file of root, mode 0400, with an access control list that lets one more user read it (acl(5), acl_ea.h)."""
    credential = write_secret(home / "p11tpm.pin", "123456")
    credential.chmod(0o400)
    everybody = 0xFFFFFFFF
    entries = [(1, 4, everybody), (2, 4, NOBODY), (4, 0, everybody), (16, 4, everybody), (32, 0, everybody)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(credential, "system.posix_acl_access", acl)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")
    assert credential.stat().st_mode & 0o777 == 0o440
    assert as_nobody(lambda: PinFile(str(credential), credential=True).read()) == b"123456"
    with pytest.raises(Error, match="others could read"):
        as_nobody(lambda: PinFile(str(credential)).read())


def test_a_link_leads_to_a_file(file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(file)
    assert PinFile(str(link)).read() == b"123456"
    file.chmod(0o644)
    assert "others could read" in refused(link)


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "loop"])
def test_what_is_no_file(tmp_path, kind):
    path = tmp_path / "pin"
    make = {
        "missing": lambda: None,
        "directory": lambda: path.mkdir(0o700),
        "fifo": lambda: os.mkfifo(path, 0o600),
        "loop": lambda: path.symlink_to("pin"),
    }
    make[kind]()
    assert re.search("No such file|not a regular file|Too many levels", refused(path))


def test_a_file_of_another_user(home, as_nobody, root):  # noqa: ARG001
    file = write_secret(home / "pin", "123456")

    def read():
        return PinFile(str(file)).read()

    with pytest.raises(Error, match="Permission denied: put the PIN there, in a file of uid 65534"):
        as_nobody(read)
    os.chown(file, 65533, 65533)
    with pytest.raises(Error, match="belongs to uid 65533: chown 0 "):
        read()
    os.chown(file, 65534, 65534)
    assert as_nobody(read) == b"123456"


def test_a_pipe_that_is_open_is_nobody_elses():
    reader, writer = os.pipe()
    os.write(writer, b"123")
    os.write(writer, b"456\n")
    os.close(writer)
    assert PinFile("-").take(reader) == b"123456"
    os.close(reader)
