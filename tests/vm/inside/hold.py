"""hold.py start: hold a session through /dev/tpmrm0, and say so, until the input ends.
hold.py pass COUNT: have the kernel save a session that many times."""

import errno
import os
import sys

START = bytes.fromhex("8001 0000003b 00000176 40000007 40000007 0020" + "11" * 32 + "0000 00 0010 000b")
PROPERTY = bytes.fromhex("8001 00000016 0000017a 00000006 00000100 00000001")  # TPM2_GetCapability


def ask(device: int, command: bytes) -> None:
    """Have the TPM do a command; SystemExit if it answers with an error."""
    os.write(device, command)
    response = os.read(device, 4096)
    if response[6:10] != bytes(4):
        sys.exit(response.hex())


def hold() -> int:
    """Start a session; return the device by which it is there."""
    device = os.open("/dev/tpmrm0", os.O_RDWR)
    ask(device, START)
    return device


def save(count: int) -> None:
    """Have a session saved after each of so many commands."""
    device, saved = hold(), 0
    while saved < count:
        try:
            ask(device, PROPERTY)
            saved += 1
        except OSError as error:
            if error.errno != errno.ETIME:  # the driver waits for two seconds only, on a busy machine too
                raise
            os.close(device)
            device = hold()


if sys.argv[1] == "start":
    hold()
    print("held", flush=True)
    sys.stdin.read()
else:
    save(int(sys.argv[2]))
