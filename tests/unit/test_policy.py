"""Policy digests against values that others published, and the text of states."""

import hashlib

import pytest

from p11tpm.ck import CKR
from p11tpm.error import Error
from p11tpm.tpm import policy, state, template
from p11tpm.tpm.state import Signed, States

LINUX = {  # sections of a kernel's image, in the order in which systemd-stub(7) measures them
    "linux": b"kernel\n",
    "osrel": b"NAME=test\n",
    "cmdline": b"quiet\n",
    "initrd": b"initrd\n",
}
PHASES = (b"enter-initrd", b"leave-initrd", b"sysinit", b"ready")


def replayed(sections: dict[str, bytes], phases) -> bytes:
    """The value of PCR 11 once a signed image has been measured, and the phases of the boot."""
    events = [part for name, content in sections.items() for part in (b"." + name.encode() + b"\0", content)]
    value = bytes(32)
    for event in (*events, *phases):
        value = hashlib.sha256(value + hashlib.sha256(event).digest()).digest()
    return value


@pytest.mark.parametrize(
    ("phases", "value", "signed"),
    [
        (
            PHASES[:1],
            "4682850a113790c5df2937c0c2ced3b801d07d91b532bc64e3b005741d7dafcf",
            "7c47b5e40d9a42541692210d923aebb35ab5d89d6fa8322ebd229bd470903e4c",
        ),
        (
            PHASES,
            "0bff54588b29a5fb9c6a94327bce38250d583b756048a81991aa3fe008525535",
            "e2745308e58bc1ac32217b81a40d2f0544a735aa8295aa3e5a59b3d6bb07e331",
        ),
    ],
)
def test_systemd_measures_and_signs_the_same(phases, value, signed):
    """As systemd-measure of systemd 252 printed them by its commands calculate and sign."""
    present = replayed(LINUX, phases)
    assert present.hex() == value
    assert policy.pcr(policy.START, {11: present}).hex() == signed


def test_a_value_and_a_pin():
    present = {11: replayed(LINUX, PHASES[:1])}
    digest = "e807bb181f10553bb0ac0382e4d93f0718f53bb8f4f6c27fb4c92610953b764a"
    assert States(None, [present]).digests(pin=True)[0].hex() == digest


def test_the_selection_of_linux():
    """Documentation/security/keys/trusted-encrypted.rst: PCR 16 of SHA-256."""
    assert policy.selection((16,)).hex() == "00000001000b03000001"
    zeros = hashlib.sha256(bytes(32)).hexdigest()
    assert zeros == "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"


def test_the_selection_of_talos():
    """Its policy_test gives three bytes for all values of PCRs, and how the policy begins and ends."""
    selection = policy.selection((1, 3, 8, 9, 11, 18, 19))
    assert selection.hex() == "00000001000b030a0b0c"
    values = hashlib.sha256(bytes.fromhex("010305")).digest()
    digest = hashlib.sha256(bytes(32) + bytes.fromhex("0000017f") + selection + values).hexdigest()
    assert (digest[:8], digest[-8:]) == ("84d65147", "33f915e3")


@pytest.mark.parametrize(
    "text",
    [
        "pcr=7:" + "11" * 32,
        "pcr=7:" + "11" * 32 + ",14:" + "22" * 32,
        "pcr=7:" + "11" * 32 + "\npcr=7:" + "22" * 32,
        "signed=0001000b:11:",
        "reset=0",
        "reset=3 clock=18446744073709551615",
        "signed=0001000b:11+12:" + "ä ref".encode().hex() + " pcr=7:" + "11" * 32,
    ],
)
def test_the_text_of_states_is_read_as_it_was_written(text):
    assert str(States.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pcr=7",
        "pcr=7:11",
        "pcr=24:" + "11" * 32,
        "pcr=-1:" + "11" * 32,
        "pcr=x:" + "11" * 32,
        "nv=1",
        "size=5 pcr=7:" + "11" * 32,
        "clock=-5",
        "reset=",
        "reset=1\nreset=2",
        "pcr=7:" + "11" * 32 + "\npcr=8:" + "11" * 32,
        "pcr=7:" + "11" * 32 + "\n",
        "signed=00:11:\npcr=7:" + "11" * 32,
        "signed=zz:11:",
        "signed=00:11",
        "\n".join(["pcr=7:" + f"{n:02}" * 32 for n in range(7)]),
    ],
)
def test_a_text_that_is_none_is_refused(text):
    with pytest.raises(Error) as caught:
        States.parse(text)
    assert caught.value.rv == CKR.DEVICE_ERROR


def test_the_next_state_says_what_differs():
    states = States(None, [{7: b"a", 14: b"b"}, {7: b"c", 14: b"d"}])
    assert states.differing({7: b"a", 14: b"b"}) == []
    assert states.differing({7: b"c", 14: b"x"}) == [14]
    assert states.differing({7: b"x", 14: b"y"}) == [7, 14]


def test_the_key_of_systemd():
    """A key with the exponent 65537 is given to the TPM with 0, as systemd does it; another one with its number."""
    modulus = (1 << 2047) + 1
    public = template.authority(modulus, 65537)
    assert public.hex().startswith("0001000b0006004000000010001008000000000001008000")
    assert template.rsa_numbers(public) == (modulus, 65537)
    assert template.rsa_numbers(template.authority(modulus, 3)) == (modulus, 3)


def test_policies_of_one_key_with_and_without_a_text_differ():
    signed = template.authority((1 << 2047) + 1, 65537)
    one, other = (States(Signed(signed, (11,), ref), [{}]).digests(pin=False) for ref in ("", "ours"))
    assert one != other
    assert policy.policy_ref("ours") == hashlib.sha256(b"ours").digest()


def test_numbers_of_pcrs():
    assert state.read("14+7+7") == (7, 14)
    for text in ("", "+", "7+", "24", "\u0667", "1 "):
        with pytest.raises(ValueError, match=r".*"):
            state.read(text)
