"""`bus = trusted`: the same results with passwords, and fewer commands."""

import pytest
from cryptoki import SO, USER, Rv
from keys import ec_pair, public_key, rsa_pair, verify_ecdsa, verify_pkcs1

import rig
from p11tpm.ck import CKM, CKR

PIN, SO_PIN = b"123456", b"so-secret"


@pytest.fixture
def trust(settings, tmp_path):
    """Settings of a machine whose TPM is not on a bus."""
    (tmp_path / "p11tpm.conf").write_text("log = off\nbus = trusted\n")
    return settings


@pytest.fixture
def run(trust, token):  # noqa: ARG001 - the settings come first
    return token


def steps(proxy):
    names = proxy.names
    proxy.clear()
    return names


def test_commands(run, proxy, swtpm):
    session = run.open(run.slots()[0])
    proxy.clear()
    run.login(session, USER, PIN)
    assert steps(proxy) == ["Load", "Unseal", "FlushContext"]
    assert swtpm.loaded() == []
    public, private = ec_pair(run, session)
    assert steps(proxy) == ["Create"]
    signature = run.sign(session, private, CKM.ECDSA_SHA256, b"text")
    assert steps(proxy) == ["Load", "Sign"]
    run.sign(session, private, CKM.ECDSA_SHA256, b"text")
    assert steps(proxy) == ["Sign"]
    assert len(run.random(session, 32)) == 32
    assert steps(proxy) == ["GetRandom"]
    assert len(swtpm.loaded()) == 1, "a key, no session"
    verify_ecdsa(public_key(run, session, public), signature, b"text", "sha256")
    rsa_public, rsa = rsa_pair(run, session)
    signature = run.sign(session, rsa, CKM.SHA256_RSA_PKCS, b"text")
    assert steps(proxy) == ["Create", "FlushContext", "Load", "RSA_Decrypt"]
    verify_pkcs1(public_key(run, session, rsa_public), signature, b"text", "sha256")
    run.logout(session)
    assert swtpm.loaded() == []


def test_pins_change(run, proxy, swtpm):
    """A PIN is changed by a policy, which needs a session; the SO's own is not."""
    session = run.open(run.slots()[0])
    proxy.clear()
    run.set_pin(session, PIN, b"another pin")
    assert len(steps(proxy)) == 7
    run.login(session, SO, SO_PIN)
    assert len(steps(proxy)) == 3
    run.init_pin(session, b"third pin")
    assert steps(proxy)[-1] == "FlushContext"
    run.set_pin(session, SO_PIN, b"another so pin")
    assert steps(proxy) == ["Load", "ObjectChangeAuth", "FlushContext"]
    run.logout(session)
    assert swtpm.loaded() == []
    run.login(session, USER, b"third pin")
    run.logout(session)
    run.login(session, SO, b"another so pin")


def test_wrong_pins_count(run, swtpm):
    session = run.open(run.slots()[0])
    for tries in (1, 1):
        with pytest.raises(Rv) as error:
            run.login(session, USER, b"wrong pin")
        assert error.value == CKR.PIN_INCORRECT
        assert swtpm.lockout_counter() == tries
    run.login(session, USER, PIN)


def test_a_reset_of_the_tpm(run, swtpm):
    session = run.open(run.slots()[0])
    run.login(session, USER, PIN)
    _, private = ec_pair(run, session)
    run.sign(session, private, CKM.ECDSA, bytes(32))
    swtpm.restart()
    run.sign(session, private, CKM.ECDSA, bytes(32))


def test_another_tpm(run, proxy):
    session = run.open(run.slots()[0])
    with rig.Swtpm() as other:
        swtpm, proxy.swtpm = proxy.swtpm, other
        with pytest.raises(Rv) as error:
            run.login(session, USER, PIN)
        proxy.swtpm = swtpm
    assert error.value == CKR.TOKEN_NOT_RECOGNIZED
    run.login(session, USER, PIN)


def resized(response):
    return response[:2] + len(response).to_bytes(4, "big") + response[6:]


def test_a_response_with_a_session_is_refused(run, proxy):
    """What a TPM answers to a password has an empty nonce and an empty code."""
    session = run.open(run.slots()[0])
    run.login(session, USER, PIN)
    _, private = ec_pair(run, session)
    run.sign(session, private, CKM.ECDSA, bytes(32))
    for forged in (bytes.fromhex("0000000000"), bytes.fromhex("0001000100"), bytes.fromhex("00000100010000")):
        proxy.change = lambda _, response, end=forged: resized(response[:-5] + end)
        with pytest.raises(Rv) as error:
            run.sign(session, private, CKM.ECDSA, bytes(32))
        assert error.value == CKR.DEVICE_ERROR
    proxy.change = None
    run.sign(session, private, CKM.ECDSA, bytes(32))


def test_secrets_are_hidden_unless_the_bus_is_trusted(settings, proxy, tmp_path, request):
    """Of two changes of the SO's PIN, only the one with `bus = trusted` sends the new value as it is."""
    token = request.getfixturevalue("token")
    for bus, seen in (("untrusted", False), ("trusted", True)):
        (tmp_path / "p11tpm.conf").write_text(f"log = off\nbus = {bus}\n")
        token.finalize()
        token.initialize()
        session = token.open(token.slots()[0])
        token.login(session, SO, SO_PIN)
        token.set_pin(session, SO_PIN, SO_PIN)  # its value is what the login of the next round sends
        change = next(one for one in reversed(proxy.commands) if one.name == "ObjectChangeAuth")
        value = change.request[-32:]
        proxy.clear()
        token.logout(session)
        token.login(session, SO, SO_PIN)
        assert any(value in one.request for one in proxy.commands) == seen, bus
    assert settings
