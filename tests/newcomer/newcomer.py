"""What a newcomer does on a new machine, and how long it takes; machine.sh makes the machine and runs this there.

Root installs, and an ordinary user has the keys: what root has installed must do for everybody.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))

import rig  # noqa: E402 - of this checkout

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = "file:///srv/p11tpm.git"
NAME = "newcomer"
HOME = Path("/home") / NAME
INSTALLED = Path("/usr/local/bin/p11tpm")
OTHERS = {Path(name) for name in ("/dev", "/proc", "/home", "/root", "/tmp")}  # not the machine's own, or its users'


@contextlib.contextmanager
def step(words: str) -> Iterator[None]:
    """Print what was done, and how long it took."""
    began = time.monotonic()
    yield
    print(f"{time.monotonic() - began:7.1f} s  {words}", flush=True)


def run(*command: str | Path, user: str = "root", home: Path = Path("/root")) -> str:
    """Output of a program that `user` runs at home. SystemExit with all that it said if it fails."""
    done = subprocess.run(
        command,
        user=user,
        group=user,
        extra_groups=[],
        cwd=home,
        env={**os.environ, "HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def files() -> set[Path]:
    """All files and folders of the machine, but not its users'."""
    found: set[Path] = set()
    for place, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if Path(place, name) not in OTHERS]
        found.update(Path(place, name) for name in [*folders, *names])
    return found


def install_and_use() -> None:
    """As root: everything from the demo to taking p11tpm away again."""
    with step("make demo, as root"):
        run("make", "-C", CHECKOUT, "demo")
    run("useradd", "--create-home", NAME)
    checkout = HOME / CHECKOUT.name
    run("git", "clone", "--quiet", REPOSITORY, checkout, user=NAME, home=HOME)
    with step("make demo, as an ordinary user: the packages are there"):
        run("make", "-C", checkout, "demo", user=NAME, home=HOME)
    before = files()
    with step("make install"):
        run("make", "-C", CHECKOUT, "install")
    print(run(sys.executable, checkout / Path(__file__).relative_to(CHECKOUT), "use", user=NAME, home=HOME), end="")
    with step("make uninstall"):
        run("make", "-C", CHECKOUT, "uninstall")
    if changed := sorted(map(str, before ^ files())):
        sys.exit("make uninstall has left behind or taken away: " + "\n".join(changed))


def use() -> None:
    """As an ordinary user: keys in a software TPM, and a login with them."""
    with contextlib.ExitStack() as stack:
        tpm = stack.enter_context(rig.Swtpm())
        user = rig.User(tpm, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        user.command = INSTALLED
        with step("p11tpm init"):
            user.init()
        sshd = stack.enter_context(rig.Sshd())
        sshd.authorize(user.public_key("ssh"))
        with step('ssh -I "$(p11tpm module)"'):
            done = sshd.login("-I", user.module, env=user.env)
        if (done.returncode, done.stdout, done.stderr) != (0, "welcome\n", ""):
            sys.exit(f"ssh ended with {done.returncode}: {done.stdout}{done.stderr}\n{sshd.log}")


if __name__ == "__main__":
    if sys.argv[1:] == ["use"]:
        use()
    else:
        install_and_use()
