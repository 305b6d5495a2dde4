"""Shows a newcomer what p11tpm does: a login with OpenSSH by keys that live in a (software) TPM.

`make demo` runs it. Everything is private and thrown away: the TPM, the store, the SSH server, the agent.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

import rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

KEYS = {"ssh": "ECDSA P-256", "work": "RSA-2048"}


class DemoError(Exception):
    """A step did not do what it should; the text is for the person in front of the screen."""


class Demo:
    """One run through key making, `ssh` and `ssh-agent`, told step by step on `console`."""

    def __init__(self, console: Console, directory: Path) -> None:
        self.console = console
        self.directory = directory
        self.user: rig.User

    def run(self, stack: contextlib.ExitStack) -> None:
        """All steps. Programs that are started end with `stack`. DemoError if one goes wrong."""
        with self.step("Start a TPM in software: private, and thrown away at the end"):
            tpm = stack.enter_context(rig.Swtpm())
        self.user = rig.User(tpm, self.directory, pin=f"{secrets.randbelow(10**6):06}", so_pin=secrets.token_hex(8))
        self.make_keys()
        module = self.user.module
        with self.step("Start an SSH server of our own on 127.0.0.1"):
            sshd = stack.enter_context(rig.Sshd())
        public_keys = {label: self.user.public_key(label) for label in KEYS}
        self.log_in_directly(sshd, module, public_keys)
        self.log_in_by_agent(stack, sshd, module, public_keys)

    def make_keys(self) -> None:
        with self.step("Create a token with two PINs, and in the TPM a first key, ECDSA P-256", "p11tpm init"):
            self.user.init("demo", "p256", "ssh")
        told = "p11tpm key generate --algorithm rsa2048 --label work"
        with self.step("Create a second key, RSA-2048: TPMs take their time for these", told):
            self.user.generate("rsa2048", "work")

    def log_in_directly(self, sshd: rig.Sshd, module: str, public_keys: dict[str, str]) -> None:
        for label, kind in KEYS.items():
            sshd.authorize(public_keys[label])
            told = "ssh -o PKCS11Provider=$(p11tpm module) HOST"
            with self.step(f"Log in with ssh: the TPM signs with the {kind} key once it has the PIN", told):
                self._check_login(sshd, sshd.login("-o", f'PKCS11Provider="{module}"', env=self.user.env))

    def log_in_by_agent(
        self, stack: contextlib.ExitStack, sshd: rig.Sshd, module: str, public_keys: dict[str, str]
    ) -> None:
        with self.step("Hand the token to an ssh-agent: it asks for the PIN once", "ssh-add -s $(p11tpm module)"):
            agent = stack.enter_context(rig.Agent(self.user.env, allow=os.path.realpath(module)))
            added = agent.ssh_add("-s", module)
            if added.returncode or len(agent.keys()) != len(KEYS):
                raise DemoError(f"ssh-add -s: {added.stderr}\nThe agent's log:\n{agent.log}")
        asked = len(self.user.askpass.questions())
        for label, kind in KEYS.items():
            sshd.authorize(public_keys[label])
            with self.step(f"Log in through the agent with the {kind} key", "ssh HOST"):
                done = sshd.login("-o", f'IdentityAgent="{agent.socket}"', env=self.user.env)
                self._check_login(sshd, done, f"The agent's log:\n{agent.log}")
        if len(self.user.askpass.questions()) != asked:
            raise DemoError("ssh asked for the PIN although the agent had it")

    def _check_login(self, sshd: rig.Sshd, done: subprocess.CompletedProcess[str], more: str = "") -> None:
        if done.returncode or done.stdout != "welcome\n":
            tail = "\n".join(sshd.log.splitlines()[-15:])
            raise DemoError(f"The login failed ({done.returncode}): {done.stderr}\n{more}\nThe server's log:\n{tail}")

    @contextlib.contextmanager
    def step(self, words: str, command: str = "") -> Iterator[None]:
        """Print what is done, the command a user would type for it, and how long it took."""
        began = time.monotonic()
        try:
            yield
        except BaseException:
            self.console.print(f"[red]failed[/]  {escape(words)}")
            raise
        self.console.print(f"[green]{time.monotonic() - began:5.2f} s[/]  {escape(words)}")
        if command:
            self.console.print(f"         [dim]$ {escape(command)}[/]")


def _end(number: int, _: FrameType | None) -> None:
    """Make a signal end the demo by way of its cleaning up."""
    sys.exit(128 + number)


def main() -> int:
    """Run the demo: 0 if all of it worked and all of it is cleaned up."""
    signal.signal(signal.SIGTERM, _end)
    console = Console(highlight=False, soft_wrap=True)
    console.print("\n[bold]p11tpm: SSH keys that never leave the TPM[/]\n")
    began = time.monotonic()
    try:
        with contextlib.ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p11tpm-demo-")))
            Demo(console, directory).run(stack)
    except (DemoError, OSError, subprocess.SubprocessError) as error:
        console.print(f"\n{escape(str(error))}\n\n[red]The demo stopped here.[/] Everything it started has ended.")
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted. Everything the demo started has ended.")
        return 130
    took = time.monotonic() - began
    console.print(f"\n[bold]All of it worked[/], in {took:.1f} s, and nothing of it is left behind.")
    console.print("No private key was ever in a file that is of use without this TPM and the PIN.")
    console.print("For your own TPM: [bold]sudo make install[/], then [bold]p11tpm init[/].\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
