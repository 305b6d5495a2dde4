"""git, which signs commits by ssh-keygen and ssh-agent; and what it calls, `ssh-keygen -Y sign`."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

import rig
from clients.test_openssh import add, check_silent, public_file, start_agent
from rig.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYGEN = "/usr/bin/ssh-keygen"
KEYS = {"ssh": "p256", "work": "rsa2048"}


@pytest.fixture(scope="module")
def user(new_user: type[rig.User], tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.User]:
    """A user with KEYS and an agent that has them, in a home of his own: git's settings are there."""
    home = tmp_path_factory.mktemp("user")
    with rig.Tabrmd(max_tries=32) as tpm:
        owner = new_user(tpm, home)
        owner.init_keys(KEYS)
        with start_agent(owner) as agent:
            (home / ".ssh").mkdir(mode=0o700)
            owner.env |= {"HOME": str(home), "SSH_AUTH_SOCK": str(agent.socket), "GIT_PAGER": "cat"}
            add(agent, owner)
            yield owner
            check_silent(agent)


@pytest.fixture
def work(user: rig.User, tmp_path: Path) -> Path:
    """A repository with something to commit."""
    for command in (["init", "-q"], ["config", "user.name", "Me"], ["config", "user.email", "me@example.org"]):
        git(user, tmp_path, *command)
    (tmp_path / "file").write_text("text\n")
    git(user, tmp_path, "add", "file")
    return tmp_path


def git(user: rig.User, where: Path, *arguments: str, refused: str = "") -> str:
    """What git says. With `refused` it must fail and say that; else it must not fail."""
    done = user.run("/usr/bin/git", "-C", where, *arguments)
    told = (done.stdout + done.stderr).decode()
    assert bool(done.returncode) == bool(refused), told
    assert refused in told
    return told


def sign(user: rig.User, public: Path, data: bytes) -> subprocess.CompletedProcess[bytes]:
    return user.run(KEYGEN, "-q", "-Y", "sign", "-n", "file", "-f", public, stdin=data)


@pytest.mark.parametrize("label", KEYS)
def test_signed_file(user: rig.User, tmp_path: Path, label: str) -> None:
    """Verified by ssh-keygen, which knows nothing of the token."""
    public = public_file(user, label, tmp_path)
    signers, signature = tmp_path / "signers", tmp_path / "signature"
    signers.write_text(f"me@here {public.read_text()}")
    made = sign(user, public, b"data")
    assert (made.returncode, made.stderr) == (0, b"")
    signature.write_bytes(made.stdout)
    verify = [KEYGEN, "-q", "-Y", "verify", "-n", "file", "-f", str(signers), "-I", "me@here", "-s", str(signature)]
    assert subprocess.run(verify, input=b"data", timeout=60, check=False).returncode == 0
    assert subprocess.run(verify, input=b"Data", check=False, capture_output=True, timeout=60).returncode != 0


def test_recipe(user: rig.User, work: Path) -> None:
    recipe = Recipe.of(user, "git")
    assert user.run("/usr/bin/ssh-add", "-e", user.module).returncode == 0
    for block in range(3):
        told = recipe.run(block, work)
    assert 'Good "git" signature for me@example.org with ECDSA key' in told
    assert 'Good "git" signature' in git(user, work, "verify-commit", "HEAD")
    (work / "file").write_text("other text\n")
    git(user, work, "commit", "-q", "-a", "-m", "again")
    git(user, work, "tag", "-s", "-m", "tagged", "v1")
    assert 'Good "git" signature' in git(user, work, "verify-tag", "v1")
    changed = git(user, work, "cat-file", "commit", "HEAD").replace("again", "never")
    forged = user.run(
        "/usr/bin/git", "-C", work, "hash-object", "-t", "commit", "-w", "--stdin", stdin=changed.encode()
    )
    git(user, work, "verify-commit", forged.stdout.decode().strip(), refused="Could not verify signature")


def test_agent_without_the_module(user: rig.User, work: Path) -> None:
    """No signature, no commit; and the key's name in the message."""
    public = public_file(user, "work", work)
    settings = ("-c", "gpg.format=ssh", "-c", f"user.signingKey={public}")
    with start_agent(user) as empty:
        with_agent = {**user.env, "SSH_AUTH_SOCK": str(empty.socket)}
        command = ["/usr/bin/git", "-C", work, *settings, "commit", "-S", "-m", "none"]
        done = subprocess.run(command, env=with_agent, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0
        assert os.fspath(public) in done.stderr
        assert git(user, work, "log", refused="does not have any commits yet")
        add(empty, user)
        assert subprocess.run(command, env=with_agent, capture_output=True, timeout=60, check=False).returncode == 0
