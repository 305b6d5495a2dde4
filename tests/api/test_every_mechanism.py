"""Every mechanism that the token lists does what its flags say, with its shortest and its longest keys.

The token's list is walked at run time; a mechanism or a flag without an exercise is a failure.
"""

import re

import exercises_of_domains
import exercises_of_pairs
import exercises_of_secrets
import pytest

from p11tpm.ck import CKF, CKM, CKR, name
from p11tpm.mechanism import MECHANISMS

FAMILIES = [
    thing
    for module in (exercises_of_pairs, exercises_of_domains, exercises_of_secrets)
    for thing in vars(module).values()
    if "names" in getattr(thing, "__dict__", {})
]
DOES = (  # what a mechanism may do (CK_MECHANISM_INFO.flags)
    *("ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "SIGN_RECOVER", "VERIFY_RECOVER", "DIGEST", "GENERATE"),
    *("GENERATE_KEY_PAIR", "WRAP", "UNWRAP", "DERIVE"),
)
WITH_A_PRIVATE_KEY = {"DECRYPT", "SIGN", "SIGN_RECOVER", "UNWRAP", "DERIVE", "GENERATE_KEY_PAIR"}
CURVES = CKF.EC_F_P | CKF.EC_NAMEDCURVE | CKF.EC_UNCOMPRESS
EDWARDS = CKF.EC_F_P | CKF.EC_NAMEDCURVE | CKF.EC_CURVENAME

# What swtpm does: blocks of AES and the HMACs of its hashes, too
IN_HARDWARE = r"CKM_(.*RSA.*|EC(?!_EDWARDS).*|AES_(?!.*DATA).*|SHA(_1|256|384|512)_HMAC(_GENERAL)?)"

# Longer ones take seconds to minutes to make; for everything else keys of the greatest size are brought in
GENERATED = {CKM.RSA_PKCS_KEY_PAIR_GEN: 2048, CKM.DSA_PARAMETER_GEN: 1024, CKM.DH_PKCS_KEY_PAIR_GEN: 2048}


def family_of(word):
    """Find the family of a mechanism by its name (without CKM_), and fail for one that nothing exercises."""
    found = [family for family in FAMILIES if re.fullmatch(family.names, word)]
    assert len(found) == 1, f"there is no exercise for CKM_{word}"
    return found[0]


class Walk:
    """A token's mechanisms, and what the wire to its TPM sees of each exercise."""

    def __init__(self, run, session, proxy):
        self.run, self.session, self.proxy = run, session, proxy
        self._slot = run.slots()[0]
        self._kept = {}

    def list(self):
        count = self.run.ulong()
        self.run.C_GetMechanismList(self._slot, self.run.ffi.NULL, count)
        types = self.run.ffi.new("CK_ULONG[]", count[0])
        self.run.C_GetMechanismList(self._slot, types, count)
        return list(types)

    def info(self, type_):
        """Return the flags and both key sizes of a mechanism."""
        info = self.run.ffi.new("CK_MECHANISM_INFO *")
        self.run.C_GetMechanismInfo(self._slot, type_, info)
        return info.flags, info.ulMinKeySize, info.ulMaxKeySize

    def keep(self, make, name=None):
        """Make an object for an exercise, once if it has a name: what the TPM does for that does not count."""
        if name not in self._kept:
            before = len(self.proxy.commands)
            self._kept[name] = make()
            del self.proxy.commands[before:]
        return self._kept[name] if name else self._kept.pop(name)

    def exercise(self, type_, flag, size, **stays):
        """Exercise a mechanism; give the TPM's commands."""
        word = name(CKM, type_).removeprefix("CKM_")
        family = family_of(word)(self.run, self.session, self.keep, type_, word, size, **stays)
        method = getattr(family, flag.lower(), None)
        assert method, f"there is no exercise for CKF_{flag}"
        self.proxy.clear()
        method()
        # a connection that is idle while software computes lets go of what it has in the TPM
        return [command for command in self.proxy.commands if command.name != "FlushContext"]


@pytest.fixture
def walk(token, session, proxy):
    return Walk(token, session, proxy)


def flags_of(flags):
    return [flag for flag in DOES if flags & getattr(CKF, flag)]


def sizes_of(type_, least, most):
    return (least, min(most, GENERATED.get(type_, most)))


def cases(type_, flags, sizes):
    """Return each exercise of a mechanism: flag, key size, what it is told more, and whether the TPM has to be asked.

    Secret keys are in software, and also in the TPM if CKF_HW says so.
    """
    hardware = bool(flags & CKF.HW)
    for flag in flags_of(flags):
        for size in sorted(set(sizes_of(type_, *sizes))):
            if hardware and family_of(name(CKM, type_).removeprefix("CKM_")).may_stay:
                yield flag, size, {"stays": True}, True
                yield flag, size, {}, False
            else:
                yield flag, size, {}, hardware and flag in WITH_A_PRIVATE_KEY


def test_every_flag_of_every_mechanism(walk):
    wrong, done = [], 0
    for type_ in walk.list():
        flags, *sizes = walk.info(type_)
        for flag, size, more, in_tpm in cases(type_, flags, sizes):
            try:
                commands = walk.exercise(type_, flag, size, **more)
                assert bool(commands) == in_tpm, f"the TPM was asked {commands}"
            except Exception as error:  # noqa: BLE001 - all that is wrong is told at once
                wrong.append(f"{name(CKM, type_)}, CKF_{flag}, {size}, {more}: {type(error).__name__}: {error}")
            done += 1
    assert not wrong, "\n".join(wrong)
    assert done > 400


def test_what_a_mechanism_says_of_itself(walk):
    assert set(walk.list()) == set(MECHANISMS), "this TPM has all of them"
    for type_ in walk.list():
        flags, least, most = walk.info(type_)
        word = name(CKM, type_)
        assert not flags & ~(CKF.HW | CURVES | EDWARDS | sum(getattr(CKF, flag) for flag in DOES)), word
        assert flags_of(flags), word
        wanted = EDWARDS if re.search("EDWARDS|EDDSA", word) else CURVES if word.startswith("CKM_EC") else 0
        assert flags & (CURVES | EDWARDS) == wanted, word
        assert bool(flags & CKF.HW) == bool(re.fullmatch(IN_HARDWARE, word)), word
        assert least <= most, word
        assert bool(least) == (flags_of(flags) != ["DIGEST"]), word


def test_an_exercise_that_is_not_there_is_a_failure(walk):
    for type_, flag in ((0x80000001, "SIGN"), (CKM.ECDSA, "DIGEST")):
        with pytest.raises(AssertionError, match="there is no exercise"):
            walk.exercise(type_, flag, 256)


def test_what_a_mechanism_does_not_do_is_refused(walk):
    run, begin = walk.run, ("ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "SIGN_RECOVER", "VERIFY_RECOVER")
    key = run.generate_pair(walk.session, CKM.EC_KEY_PAIR_GEN, {0x180: bytes.fromhex("06082a8648ce3d030107")}, {})[1]
    for type_ in walk.list():
        flags, *_ = walk.info(type_)
        for flag in set(begin) - set(flags_of(flags)):
            function = f"C_{flag.title().replace('_', '')}Init"
            rv = getattr(run.raw, function)(walk.session, run.mechanism(type_), key)
            assert rv == CKR.MECHANISM_INVALID, f"{function} of {name(CKM, type_)}"
