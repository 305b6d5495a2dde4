"""Authorisation values, policies and the TPM's protection against guessing."""

from __future__ import annotations

import pytest
import tpm2_pytss as tss

from fuzz.tamper import name_of as name_of_command
from p11tpm.error import TPM, Error, TpmError
from p11tpm.tpm import policy, provision, template
from p11tpm.tpm.codec import name_of
from unit.tpm_ground import NEW, SECRET, SO, USER, WRONG, Ground, create_token


@pytest.fixture
def ground(proxy):
    with Ground(proxy) as ground:
        yield ground


def refused(code: int, action, *arguments):
    with pytest.raises(TpmError) as caught:
        action(*arguments)
    assert caught.value.code == code


def test_the_right_value_unseals_and_a_wrong_one_is_counted_once(ground, swtpm):
    assert ground.unseal() == SECRET
    refused(TPM.AUTH_FAIL, ground.unseal, WRONG)
    assert ground.tpm.lockout().counter == swtpm.lockout_counter() == 1
    assert ground.unseal() == SECRET
    assert swtpm.loaded() == ["0x2000000"], "nothing but the session stays, whatever happened"


def test_lockout(ground, swtpm):
    state = ground.tpm.lockout()
    assert (state.counter, state.max_tries, state.locked, state.auth_set) == (0, 3, False, False)
    assert (state.interval, state.recovery) == (1000, 1000)
    for _ in range(3):
        refused(TPM.AUTH_FAIL, ground.unseal, WRONG)
    refused(TPM.LOCKOUT, ground.unseal)
    assert ground.tpm.lockout().locked
    ground.sign(ground.key(template.ec("p256")))  # keys go on signing
    swtpm.tool("changeauth", "-c", "lockout", "owner-of-the-machine")
    assert ground.tpm.lockout().auth_set


def test_trailing_zero_bytes_do_not_count(ground):
    blob = ground.tpm.create(template.so(), b"value\0\0", b"data")
    assert ground.tpm.unseal(blob, b"value\0\0\0\0") == b"data"


def test_the_user_changes_the_value_by_the_old_one(ground):
    tpm = ground.tpm
    user = provision.change_user_auth(tpm, ground.user, ground.branches, USER, NEW)
    assert ground.proxy.names == [
        "StartAuthSession",
        "Load",
        "PolicyAuthValue",
        "PolicyCommandCode",
        "PolicyOR",
        "ObjectChangeAuth",
        "FlushContext",
    ]
    assert user.public == ground.user.public
    assert tpm.unseal(user, NEW) == SECRET
    refused(TPM.AUTH_FAIL, tpm.unseal, user, USER)


def test_a_wrong_old_value_changes_nothing_and_leaves_nothing(ground, swtpm):
    change = provision.change_user_auth
    refused(TPM.AUTH_FAIL, change, ground.tpm, ground.user, ground.branches, WRONG, NEW)
    assert ground.tpm.lockout().counter == 1
    assert swtpm.loaded() == []


def test_the_so_resets_the_value_without_knowing_it(ground, swtpm):
    tpm = ground.tpm
    tpm.unseal(ground.so, SO)  # the SO's login
    ground.proxy.clear()
    user = provision.reset_user_auth(tpm, ground.user, ground.so, ground.branches, SO, NEW)
    assert ground.proxy.names == [
        "StartAuthSession",
        "Load",
        "PolicySecret",
        "FlushContext",
        "PolicyCommandCode",
        "PolicyOR",
        "Load",
        "ObjectChangeAuth",
        "FlushContext",
    ]
    assert tpm.unseal(user, NEW) == SECRET
    refused(TPM.AUTH_FAIL, provision.reset_user_auth, tpm, ground.user, ground.so, ground.branches, WRONG, NEW)
    assert swtpm.loaded() == ["0x2000000"]


def test_the_so_changes_the_own_value(ground):
    tpm = ground.tpm
    so = provision.change_auth(tpm, ground.so, SO, NEW)
    assert len(tpm.unseal(so, NEW)) == 32
    refused(TPM.AUTH_FAIL, tpm.unseal, so, SO)
    refused(TPM.AUTH_FAIL, provision.change_auth, tpm, so, SO, USER)


def test_a_token_without_pin_is_not_protected_against_guessing(ground):
    tpm = ground.tpm
    _, user = create_token(tpm, SO, b"", SECRET, no_pin=True)
    assert tpm.unseal(user, b"") == SECRET
    refused(TPM.BAD_AUTH, tpm.unseal, user, WRONG)
    assert tpm.lockout().counter == 0


def change_by_the_user(ground: Ground) -> None:
    provision.change_user_auth(ground.tpm, ground.user, ground.branches, USER, NEW)


def change_by_the_so(ground: Ground) -> None:
    provision.reset_user_auth(ground.tpm, ground.user, ground.so, ground.branches, SO, NEW)


@pytest.mark.parametrize(
    ("change", "command"), [(change_by_the_user, "ObjectChangeAuth"), (change_by_the_so, "PolicySecret")]
)
def test_a_pin_is_not_tried_again_when_the_connection_breaks(ground, change, command):
    tried = []

    def cut(request: bytes, response: bytes) -> bytes:
        if name_of_command(request) == command:
            tried.append(request)
            raise ConnectionError
        return response

    ground.proxy.change = cut
    with pytest.raises(Error, match="is not known"):
        change(ground)
    assert len(tried) == 1
    ground.proxy.change = None
    assert ground.unseal() == SECRET


def test_what_follows_the_sos_pin_is_tried_again(ground):
    """After PolicySecret the PIN is known to be right."""
    broken = iter([True])

    def cut(request: bytes, response: bytes) -> bytes:
        if name_of_command(request) == "ObjectChangeAuth" and next(broken, False):
            raise ConnectionError
        return response

    ground.proxy.change = cut
    user = provision.reset_user_auth(ground.tpm, ground.user, ground.so, ground.branches, SO, NEW)
    assert ground.tpm.unseal(user, NEW) == SECRET


# -- the referee: ESYS on the same TPM


class Referee:
    """The token's objects in ESYS, which knows nothing of our sessions."""

    def __init__(self, esapi, ground: Ground) -> None:
        self.esapi = esapi
        self.srk = esapi.tr_from_tpmpublic(provision.SRK_HANDLE)
        self.so, self.user = self.load(ground.so), self.load(ground.user)

    def load(self, blob):
        public = tss.TPM2B_PUBLIC(tss.TPMT_PUBLIC.unmarshal(blob.public)[0])
        handle = self.esapi.load(self.srk, tss.TPM2B_PRIVATE(blob.private), public)
        return handle, bytes(self.esapi.read_public(handle)[1])

    def policy(self, kind=tss.TPM2_SE.POLICY):
        none, symmetric = tss.ESYS_TR.NONE, tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL)
        return self.esapi.start_auth_session(none, none, kind, symmetric, tss.TPM2_ALG.SHA256)


@pytest.fixture
def referee(ground):
    ground.start_again()
    with tss.ESAPI(ground.proxy.swtpm.tcti) as esapi:
        yield Referee(esapi, ground)


def test_names_are_those_that_the_tpm_gives(ground, referee):
    assert name_of(ground.so.public) == referee.so[1]
    assert name_of(ground.user.public) == referee.user[1]


def test_the_policies_are_those_that_a_trial_session_gives(ground, referee):
    esapi, code = referee.esapi, tss.TPM2_CC.ObjectChangeAuth
    own, officer = policy.branches(ground.so.public)

    trial = referee.policy(tss.TPM2_SE.TRIAL)
    esapi.policy_auth_value(trial)
    esapi.policy_command_code(trial, code)
    assert bytes(esapi.policy_get_digest(trial)) == own
    esapi.flush_context(trial)

    trial = referee.policy(tss.TPM2_SE.TRIAL)
    esapi.tr_set_auth(referee.so[0], SO)
    esapi.policy_secret(referee.so[0], trial, expiration=0)
    esapi.policy_command_code(trial, code)
    assert bytes(esapi.policy_get_digest(trial)) == officer
    esapi.policy_or(trial, tss.TPML_DIGEST([own, officer]))
    both = bytes(esapi.policy_get_digest(trial))
    assert both == policy.any_of(own, officer)
    assert tss.TPMT_PUBLIC.unmarshal(ground.user.public)[0].authPolicy == both
    esapi.flush_context(trial)


def test_what_the_so_proves_does_not_unseal(ground, referee):
    esapi = referee.esapi
    branches = tss.TPML_DIGEST(list(policy.branches(ground.so.public)))
    esapi.tr_set_auth(referee.so[0], SO)
    session = referee.policy()
    esapi.policy_secret(referee.so[0], session, expiration=0)
    esapi.policy_command_code(session, tss.TPM2_CC.ObjectChangeAuth)
    esapi.policy_or(session, branches)
    with pytest.raises(tss.TSS2_Exception) as caught:
        esapi.unseal(referee.user[0], session1=session)
    assert caught.value.rc == 0x9A4  # session 1: TPM_RC_POLICY_CC
    esapi.flush_context(session)

    session = referee.policy()
    esapi.policy_secret(referee.so[0], session, expiration=0)
    esapi.policy_command_code(session, tss.TPM2_CC.Unseal)
    with pytest.raises(tss.TSS2_Exception) as caught:
        esapi.policy_or(session, branches)
    assert caught.value.rc == 0x1C4  # parameter 1: the digest is none of the branches
    esapi.flush_context(session)


def test_the_value_alone_does_not_change_the_value(referee):
    referee.esapi.tr_set_auth(referee.user[0], USER)
    with pytest.raises(tss.TSS2_Exception) as caught:
        referee.esapi.object_change_auth(referee.user[0], referee.srk, NEW)
    assert caught.value.rc == 0x124  # TPM_RC_AUTH_TYPE: the policy is needed
    assert referee.esapi.unseal(referee.user[0]) == SECRET


def test_the_referee_unseals_and_signs_with_our_objects(ground, referee):
    esapi = referee.esapi
    esapi.tr_set_auth(referee.user[0], USER)
    assert bytes(esapi.unseal(referee.user[0])) == SECRET
    esapi.flush_context(referee.user[0])
    esapi.flush_context(referee.so[0])
    key = ground.key(template.ec("p256"))
    ground.tpm.release()
    handle, _ = referee.load(key)
    esapi.tr_set_auth(handle, key.auth)
    scheme = tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.ECDSA)
    scheme.details.any.hashAlg = tss.TPM2_ALG.SHA256
    ticket = tss.TPMT_TK_HASHCHECK(tag=tss.TPM2_ST.HASHCHECK, hierarchy=tss.TPM2_RH.NULL)
    signature = esapi.sign(handle, bytes(32), scheme, ticket)
    esapi.verify_signature(handle, bytes(32), signature)
