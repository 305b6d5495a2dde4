"""hold.py start: hold a session through /dev/tpmrm0, and say so, until the input ends; use it for each line.
hold.py pass COUNT: have the TPM save a session that many times, or until it saves none."""

import errno
import os
import sys

START = bytes.fromhex("8001 0000003b 00000176 40000007 40000007 0020" + "11" * 32 + "0000 00 0010 000b")
PROPERTY = bytes.fromhex("8001 00000016 0000017a 00000006 00000100 00000001")  # TPM2_GetCapability
CONTEXT_LOAD, CONTEXT_SAVE, FLUSH_CONTEXT = 0x161, 0x162, 0x165
HEADER = 10


def ask(device: int, command: bytes) -> bytes:
    """Have the TPM do a command, and return what follows the response's header; SystemExit if that is an error."""
    os.write(device, command)
    response = os.read(device, 4096)
    if response[6:HEADER] != bytes(4):
        sys.exit(response.hex())
    return response[HEADER:]


def command(code: int, parameters: bytes) -> bytes:
    """Return a command without authorisation."""
    return b"\x80\x01" + (HEADER + len(parameters)).to_bytes(4) + code.to_bytes(4) + parameters


def hold() -> None:
    """Hold a session by the manager."""
    manager = os.open("/dev/tpmrm0", os.O_RDWR)
    ask(manager, START)
    print("held", flush=True)
    for _ in sys.stdin:
        ask(manager, PROPERTY)
        print("used", flush=True)


def save(count: int) -> None:
    """Have a session saved so many times, without the manager, which takes longer."""
    device, saved = os.open("/dev/tpm0", os.O_RDWR), 0
    session = ask(device, START)[:4]
    try:
        while saved < count:
            try:
                ask(device, command(CONTEXT_LOAD, ask(device, command(CONTEXT_SAVE, session))))
                saved += 1
            except OSError as error:
                if error.errno != errno.ETIME:  # the driver waits for two seconds only, on a busy machine too
                    raise
                ask(device, command(FLUSH_CONTEXT, session))
                session = ask(device, START)[:4]
    finally:
        ask(device, command(FLUSH_CONTEXT, session))


if sys.argv[1] == "start":
    hold()
else:
    save(int(sys.argv[2]))
