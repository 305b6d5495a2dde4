"""What a test may do on this machine, in which containers differ; a test that may not is skipped, and says why."""

from __future__ import annotations

import functools
import os
import subprocess

import pytest

NAME = f"p11tpm-{os.getpid()}"
MOUNTS = "unshare --mount {more} sh -euc 'mount --bind /tmp /tmp'"
NETWORKS = f"ip netns add {NAME} && {{ ip netns exec {NAME} true; result=$?; ip netns delete {NAME}; exit $result; }}"


@functools.cache
def _works(command: str) -> bool:
    return subprocess.run(["/bin/sh", "-c", command], capture_output=True, timeout=60, check=False).returncode == 0


def require_mounts() -> None:
    """Skip the test unless a program may have mounts of its own."""
    if not _works(MOUNTS.format(more="" if os.geteuid() == 0 else "--map-root-user")):
        pytest.skip("no right to make mounts of our own here")


def require_networks() -> None:
    """Skip the test unless there may be networks of our own."""
    if not _works(NETWORKS):
        pytest.skip("no right to make networks of our own here")
