"""The TPM's commands that are put together here, each declared once (TPM 2.0 Part 3).

csrc/build.py reads from this file which commands make and which end a handle, for csrc/connection.c.
"""

from __future__ import annotations

from p11tpm.tpm.codec import u16, u32

NO_SESSIONS, SESSIONS = 0x8001, 0x8002  # TPM_ST: Part 2, clause 6.9

# The TCG's PC Client Platform TPM Profile gives a TPM 20 ms, 750 ms or 2 s for a command, by its kind, and no bound for
# making a key, for which Linux waits five minutes. A resource manager may have another program's command to end first.
_SECONDS, _SECONDS_FOR_A_KEY = 30, 300


class Command:
    """A command: its code, and what sessions and handles mean to it.

    `hides`: the first parameter carries a secret; `hidden`: the first one of the response does. `makes`: the response
    has the handle of something new. `ends`: what its first handle, or its only parameter, stands for is gone after it.
    `guess`: it tries a PIN, so it is not repeated unless the TPM said no clearly. `seconds`: how long the TPM may take
    for it.
    """

    __slots__ = ("code", "ends", "guess", "hidden", "hides", "makes", "name", "seconds")

    def __init__(
        self,
        name: str,
        code: int,
        *,
        hides: bool = False,
        hidden: bool = False,
        makes: bool = False,
        ends: bool = False,
        guess: bool = False,
        seconds: int = _SECONDS,
    ) -> None:
        self.name = name
        self.code = code
        self.hides = hides
        self.hidden = hidden
        self.makes = makes
        self.ends = ends
        self.guess = guess
        self.seconds = seconds

    def request(self, handles: bytes, area: bytes, parameters: bytes) -> bytes:
        """Put a request together; `area` is the authorisation area, empty for none (Part 1, clause 18)."""
        body = handles + (u32(len(area)) + area if area else b"") + parameters
        return u16(SESSIONS if area else NO_SESSIONS) + u32(10 + len(body)) + u32(self.code) + body


EVICT_CONTROL = Command("EvictControl", 0x120)
CREATE_PRIMARY = Command("CreatePrimary", 0x131, makes=True, seconds=_SECONDS_FOR_A_KEY)
SEQUENCE_COMPLETE = Command("SequenceComplete", 0x13E, hides=True, hidden=True, ends=True)
STIR_RANDOM = Command("StirRandom", 0x146)
OBJECT_CHANGE_AUTH = Command("ObjectChangeAuth", 0x150, hides=True, guess=True)
OBJECT_RESET_AUTH = Command("ObjectChangeAuth", 0x150, hides=True)  # by a policy that does without the old value
POLICY_SECRET = Command("PolicySecret", 0x151, guess=True)
CREATE = Command("Create", 0x153, hides=True, seconds=_SECONDS_FOR_A_KEY)
ECDH_ZGEN = Command("ECDH_ZGen", 0x154, hidden=True)
HMAC = Command("HMAC", 0x155, hides=True, hidden=True)
IMPORT = Command("Import", 0x156)  # what it carries is encrypted already, unlike its first parameter
LOAD = Command("Load", 0x157, makes=True)
RSA_DECRYPT = Command("RSA_Decrypt", 0x159, hidden=True)
HMAC_START = Command("HMAC_Start", 0x15B, hides=True, makes=True)
SEQUENCE_UPDATE = Command("SequenceUpdate", 0x15C, hides=True)
SIGN = Command("Sign", 0x15D)
UNSEAL = Command("Unseal", 0x15E, hidden=True, guess=True)
FLUSH_CONTEXT = Command("FlushContext", 0x165, ends=True)
LOAD_EXTERNAL = Command("LoadExternal", 0x167, makes=True)
POLICY_AUTHORIZE = Command("PolicyAuthorize", 0x16A)
POLICY_AUTH_VALUE = Command("PolicyAuthValue", 0x16B)
POLICY_COMMAND_CODE = Command("PolicyCommandCode", 0x16C)
POLICY_COUNTER_TIMER = Command("PolicyCounterTimer", 0x16D)
POLICY_OR = Command("PolicyOR", 0x171)
READ_PUBLIC = Command("ReadPublic", 0x173)
START_AUTH_SESSION = Command("StartAuthSession", 0x176, makes=True)
VERIFY_SIGNATURE = Command("VerifySignature", 0x177)
GET_CAPABILITY = Command("GetCapability", 0x17A)
GET_RANDOM = Command("GetRandom", 0x17B, hidden=True)
PCR_READ = Command("PCR_Read", 0x17E)
POLICY_PCR = Command("PolicyPCR", 0x17F)
POLICY_RESTART = Command("PolicyRestart", 0x180)
READ_CLOCK = Command("ReadClock", 0x181)
HASH_SEQUENCE_START = Command("HashSequenceStart", 0x186, makes=True)
POLICY_GET_DIGEST = Command("PolicyGetDigest", 0x189)
TEST_PARMS = Command("TestParms", 0x18A)
ENCRYPT_DECRYPT_2 = Command("EncryptDecrypt2", 0x193, hides=True, hidden=True)
