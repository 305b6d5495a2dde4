"""hold.py start: hold a session through /dev/tpmrm0 and say so; use it when a line comes, and end with the input.
hold.py pass COUNT: have the kernel save a session that many times."""

import os
import sys

START = bytes.fromhex("8001 0000003b 00000176 40000007 40000007 0020" + "11" * 32 + "0000 00 0010 000b")
PROPERTY = bytes.fromhex("8001 00000016 0000017a 00000006 00000100 00000001")  # TPM2_GetCapability


def ask(device: int, command: bytes) -> bytes:
    """Return the response to a command; SystemExit if it is an error."""
    os.write(device, command)
    response = os.read(device, 4096)
    if response[6:10] != bytes(4):
        sys.exit(response.hex())
    return response


device = os.open("/dev/tpmrm0", os.O_RDWR)
ask(device, START)
if sys.argv[1] == "start":
    print("held", flush=True)
    for _ in sys.stdin:
        ask(device, PROPERTY)
        print("used", flush=True)
else:
    for _ in range(int(sys.argv[2])):
        ask(device, PROPERTY)
