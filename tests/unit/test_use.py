"""Keys of older versions, which have an empty CKA_ALLOWED_MECHANISMS if they were made without one."""

from types import SimpleNamespace

import pytest

from p11tpm.attribute import ulong
from p11tpm.ck import CKA, CKK, CKM, CKO, CKR
from p11tpm.error import Error
from p11tpm.mechanism import MECHANISMS
from p11tpm.operation.use import check_use


def key(**attributes):
    named = {getattr(CKA, word): value for word, value in attributes.items()}
    kind = {"object_class": CKO.PRIVATE_KEY, "key_type": CKK.EC}
    return SimpleNamespace(attributes=named, is_set=lambda _usage: True, **kind)


@pytest.mark.parametrize("attributes", [{}, {"ALLOWED_MECHANISMS": b""}, {"ALLOWED_MECHANISMS": ulong(CKM.ECDSA)}])
def test_allowed(attributes):
    check_use(key(**attributes), MECHANISMS[CKM.ECDSA], CKA.SIGN, CKO.PRIVATE_KEY)
    if attributes.get("ALLOWED_MECHANISMS"):
        with pytest.raises(Error) as error:
            check_use(key(**attributes), MECHANISMS[CKM.ECDSA_SHA1], CKA.SIGN, CKO.PRIVATE_KEY)
        assert error.value.rv == CKR.MECHANISM_INVALID
