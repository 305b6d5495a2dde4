"""Real programs for the tests and the demo: software TPMs, a resource manager, a counting proxy, sshd and ssh-agent.

What is named here needs no packages but the product's; what needs more is imported by the name of its module.
"""

from rig.agent import Agent
from rig.askpass import Askpass
from rig.peer_user import PeerUser
from rig.process import Process, clean_env, sanitizers, write_secret
from rig.proxy import Command, CountingProxy
from rig.sshd import Sshd
from rig.swtpm import Swtpm
from rig.tabrmd import Tabrmd
from rig.user import User

__all__ = [
    "Agent",
    "Askpass",
    "Command",
    "CountingProxy",
    "PeerUser",
    "Process",
    "Sshd",
    "Swtpm",
    "Tabrmd",
    "User",
    "clean_env",
    "sanitizers",
    "write_secret",
]
