"""Profile objects: found by their class only, and read only."""

import pytest
from cryptoki import RO, Rv

from p11tpm.attribute import FALSE, TRUE, ulong
from p11tpm.ck import CKA, CKO, CKP, CKR

PROFILE = {CKA.CLASS: ulong(CKO.PROFILE)}
PROFILES = [CKP.BASELINE_PROVIDER, CKP.EXTENDED_PROVIDER, CKP.AUTHENTICATION_TOKEN]
# Profiles 3.0, clauses 3.1 to 3.3: the functions that the three profiles demand
FUNCTIONS = """
C_GetFunctionList C_GetInterfaceList C_GetInterface C_Initialize C_Finalize C_GetInfo C_GetSlotList C_GetSlotInfo
C_GetTokenInfo C_OpenSession C_CloseSession C_GetSessionInfo C_FindObjectsInit C_FindObjects C_FindObjectsFinal
C_GetAttributeValue C_GetMechanismList C_GetMechanismInfo C_Login C_LoginUser C_Logout C_SignInit C_Sign C_SignUpdate
C_SignFinal
"""


@pytest.fixture
def public(token):
    """A read-only session without a login."""
    return token.open(token.slots()[0], RO)


def test_profiles_are_found_by_their_class(token, public):
    found = token.find(public, PROFILE)
    assert [token.get(public, one, CKA.PROFILE_ID) for one in found] == [ulong(profile) for profile in PROFILES]
    for one in found:
        assert token.get(public, one, CKA.CLASS) == ulong(CKO.PROFILE)
        assert token.get(public, one, CKA.TOKEN) == TRUE
        assert token.get(public, one, CKA.PRIVATE) == token.get(public, one, CKA.MODIFIABLE) == FALSE
        assert token.get(public, one, CKA.LABEL)
    assert len({token.get(public, one, CKA.UNIQUE_ID) for one in found}) == 3
    assert found == token.find(public, PROFILE)
    assert found[1:2] == token.find(public, {**PROFILE, CKA.PROFILE_ID: ulong(CKP.EXTENDED_PROVIDER)})
    assert token.find(public, {**PROFILE, CKA.PROFILE_ID: ulong(9)}) == []
    assert token.find(public, {**PROFILE, CKA.TOKEN: FALSE}) == []


def test_no_other_search_finds_them(token, session):
    """An empty token looks empty: hosts list, and delete, what an empty template finds."""
    for template in ({}, {CKA.TOKEN: TRUE}, {CKA.PROFILE_ID: ulong(1)}, {CKA.PRIVATE: FALSE}):
        assert token.find(session, template) == []


@pytest.mark.parametrize("class_", [CKO.MECHANISM, CKO.HW_FEATURE, CKO.DOMAIN_PARAMETERS, 0x80000001])
def test_classes_without_objects(token, session, class_):
    assert token.find(session, {CKA.CLASS: ulong(class_)}) == []


def test_they_stay_as_they_are(token, session):
    one = token.find(session, PROFILE)[0]
    assert token.raw.C_SetAttributeValue(session, one, *token.template({CKA.LABEL: b"x"})) == CKR.ACTION_PROHIBITED
    assert token.raw.C_DestroyObject(session, one) == CKR.ACTION_PROHIBITED
    assert token.raw.C_CopyObject(session, one, *token.template({}), token.ulong()) == CKR.ACTION_PROHIBITED
    with pytest.raises(Rv) as refused:
        token.get(session, one, CKA.VALUE)
    assert refused.value == CKR.ATTRIBUTE_TYPE_INVALID
    with pytest.raises(Rv) as refused:
        token.create(session, {**PROFILE, CKA.PROFILE_ID: ulong(1)})
    assert refused.value == CKR.ATTRIBUTE_VALUE_INVALID
    token.logout(session)
    assert token.find(session, PROFILE)[0] == one


def test_they_are_no_keys(token, session):
    one = token.find(session, PROFILE)[0]
    rv = token.raw.C_SignInit(session, token.mechanism(0x1041), one)
    assert rv == CKR.KEY_TYPE_INCONSISTENT


def test_what_the_profiles_demand_is_there(token):
    """Called with nonsense, no function of the profiles says that it is not there."""
    ffi = token.ffi
    for name in FUNCTIONS.split():
        exported = getattr(token._library, name)  # noqa: SLF001 - all that is asked is whether it is exported
        assert exported
        if name in {"C_GetFunctionList", "C_GetInterfaceList", "C_GetInterface", "C_Finalize"}:
            continue
        function = getattr(token.raw, name)
        arguments = [ffi.NULL if type_.kind in {"pointer", "function"} else 0 for type_ in ffi.typeof(function).args]
        assert function(*arguments) != CKR.FUNCTION_NOT_SUPPORTED, name
