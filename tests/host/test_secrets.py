"""Memory of a host after a logout: no secret is left there, in whatever the host has done with it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import rig
from host.secrecy import (
    AES,
    DATA,
    EC,
    GENERIC,
    KEPT,
    NEW_PIN,
    NEW_SO_PIN,
    PIN,
    PLAIN,
    SO_PIN,
    WRAPPED,
    WRONG_PIN,
    Token,
    found,
    value,
    word,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MOMENTS = ("C_Logout", "C_Finalize", "dlclose")
MOMENTS_OF = {"fork": ("child", *MOMENTS), "no_logout": MOMENTS[1:]}
SCENARIOS = {  # and what else is a secret in them, beside those of any login
    "login": (),
    "wrong_login": ("wrong PIN", "K(wrong PIN)"),
    "pin_file": (),
    "sign": (),
    "context_login": (),
    "set_pin": ("new PIN", "K(new PIN)"),
    "set_so_pin": ("SO PIN", "K(SO PIN)", "new SO PIN", "K(new SO PIN)"),
    "init_pin": ("SO PIN", "K(SO PIN)", "new PIN", "K(new PIN)"),
    "data": ("data object",),
    "derive": (),
    "unwrap": ("AES key", "wrapped key"),
    "software_keys": ("AES key", "HMAC key", "plaintext"),
    "tpm_keys": ("AES key", "short HMAC key", "plaintext"),
    "import": ("private number",),
    "fork": ("data object",),
    "no_logout": ("data object", "AES key"),
}
LOGIN = ("PIN", "K(PIN)", "token's secret", "key of MACs", "key of data", "key's authorisation value")
DISCLOSED = {"derive": {"derived", "hashed"}}


class Secretive(rig.User):
    """Somebody with a key, whose secrets are known here."""

    def configure(self, bus: str) -> None:
        rig.write_secret(self.directory / "p11tpm.conf", f"pin-file = {self.pin_file}\nbus = {bus}\n")

    def known(self) -> dict[str, bytes]:
        token = Token(self)
        pins = {"PIN": PIN, "wrong PIN": WRONG_PIN, "new PIN": NEW_PIN, "SO PIN": SO_PIN, "new SO PIN": NEW_SO_PIN}
        return {
            **{name: word(number).encode() for name, number in pins.items()},
            **{f"K({name})": token.auth("SO" if "SO" in name else "USER", number) for name, number in pins.items()},
            "token's secret": token.secret,
            "key of MACs": token.derived(b"mac|"),
            "key of data": token.derived(b"data|"),
            "key's authorisation value": token.key_auth,
            "data object": value(DATA, 64),
            "AES key": value(AES, 32),
            "HMAC key": value(GENERIC, 48),
            "short HMAC key": value(GENERIC, 32),
            "wrapped key": value(WRAPPED, 32),
            "private number": value(EC, 32),
            "plaintext": value(PLAIN, 64),
            "kept": value(KEPT, 32),
        }


@pytest.fixture(scope="module", params=["untrusted", "trusted"])
def secretive(request, tmp_path_factory) -> Iterator[tuple[Secretive, dict[str, bytes]]]:
    """A user, on a bus that is trusted or not, and all that is secret."""
    with rig.Swtpm(max_tries=32) as tpm:
        user = Secretive(tpm, tmp_path_factory.mktemp("user"), word(PIN), word(SO_PIN))
        user.init()
        user.configure(request.param)
        yield user, user.known()


POINT = ec.derive_private_key(1 << 200, ec.SECP256R1()).public_key()  # of a peer


def searched(hosts, user, scenario, secrets) -> dict[str, list[str]]:
    """Run the host and give what was found at each moment; `secrets` gets those that it discloses."""
    point = POINT.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint).hex()
    command = [hosts.program("secrets"), user.module, scenario, point]
    seen = {}
    with subprocess.Popen(command, env=user.env, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as host:
        try:
            for line in host.stderr:
                word_, what, *rest = line.removeprefix("> ").split()
                if word_ == "made":
                    secrets[what] = bytes(byte ^ 0xA5 for byte in bytes.fromhex(rest[0]))
                elif word_ == "searched":
                    seen[what] = found(int(rest[0]), secrets)
                    host.stdin.write("\n")
                    host.stdin.flush()
                else:
                    pytest.fail(line)
            assert host.wait(30) == 0
        finally:
            host.kill()
    return seen


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_left(hosts, secretive, scenario):
    user, known = secretive
    secrets = {name: known[name] for name in (*LOGIN, *SCENARIOS[scenario])}
    seen = searched(hosts, user, scenario, secrets)
    assert tuple(seen) == MOMENTS_OF.get(scenario, MOMENTS)
    assert DISCLOSED.get(scenario, set()) <= set(secrets)
    assert not any(seen.values()), seen


def test_the_search_finds_what_is_there(hosts, secretive):
    user, known = secretive
    for where in searched(hosts, user, "keep", {"kept": known["kept"]}).values():
        assert [line.partition(":")[0] for line in where] == ["kept, first half", "kept, last half"]
