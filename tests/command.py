"""How a command of p11tpm ended."""

import re

from conftest import SO_PIN, USER_PIN


def good(done):
    """It did what it should, without a word on stderr; give what it printed."""
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def failed(done, because, code=1):
    """It failed with one clear line (wrong usage: with a hint), and gave no secret away."""
    assert (done.returncode, done.stdout) == (code, ""), done
    assert re.search(because, done.stderr), done.stderr
    assert not any(word in done.stderr for word in ("Traceback", USER_PIN, SO_PIN))
    assert code == 2 or len(done.stderr.splitlines()) == 1, done.stderr
