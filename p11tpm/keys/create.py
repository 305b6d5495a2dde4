"""Objects from a complete description (C_CreateObject, clause 5.7.1)."""

from __future__ import annotations

from p11tpm import attribute
from p11tpm.attribute import Template, to_ulong
from p11tpm.ck import CKA, CKO, CKR
from p11tpm.error import Error
from p11tpm.family.family import of_keys
from p11tpm.host.imports import Late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.core.token import Token
    from p11tpm.crypto import der, domain
    from p11tpm.family import secret_key
    from p11tpm.family.abilities import DescribedKey
else:
    der = Late("p11tpm.crypto.der")
    domain = Late("p11tpm.crypto.domain")
    secret_key = Late("p11tpm.family.secret_key")


def create_object(token: Token, template: Template, session: int = 0) -> int:
    """Make an object of the token and give its identifier.

    Raises the codes of `attribute.complete`, CKR_USER_NOT_LOGGED_IN, CKR_TOKEN_WRITE_PROTECTED.
    """
    if CKA.CLASS not in template:
        raise Error(CKR.TEMPLATE_INCOMPLETE, "the template lacks CKA_CLASS")
    make = _MAKERS.get(to_ulong(template[CKA.CLASS]))
    if make is None:
        raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "objects of this class cannot be created")
    return make(token, template, session)


def _data(token: Token, template: Template, session: int) -> int:
    return token.objects.add(attribute.complete(template, CKO.DATA, None, attribute.CREATE), session)


def _certificate(token: Token, template: Template, session: int) -> int:
    if template.get(CKA.VALUE):
        known = der.certificate(template[CKA.VALUE])
        sure = {type_: known.pop(type_) for type_ in (CKA.PUBLIC_KEY_INFO, CKA.CHECK_VALUE)}
        attribute.check_known(template, sure)
        if template.get(CKA.CHECK_VALUE) == b"":
            del sure[CKA.CHECK_VALUE]  # the host wants none (clause 4.6.2)
        template = {**known, **template, **sure}
    return token.objects.add(attribute.complete(template, CKO.CERTIFICATE, None, attribute.CREATE), session)


def _public_key(token: Token, template: Template, session: int) -> int:
    key_type = to_ulong(template.get(CKA.KEY_TYPE, b"\xff"))
    found = of_keys(key_type)
    if found is None:
        raise Error(CKR.TEMPLATE_INCOMPLETE, "a public key needs a CKA_KEY_TYPE that the token has pairs of")
    attributes = attribute.complete(template, CKO.PUBLIC_KEY, key_type, attribute.CREATE)
    known = found.public_attributes(attributes)
    attribute.check_known(attributes, {CKA.PUBLIC_KEY_INFO: known[CKA.PUBLIC_KEY_INFO]})
    return token.objects.add({**attributes, **known, **attribute.of_created_key()}, session)


def _private_key(token: Token, template: Template, session: int) -> int:
    return described_key(template).add(token, session)


def described_key(template: Template) -> DescribedKey:
    """Return a private key from outside, of which the template has the numbers.

    Raises CKR_TEMPLATE_INCOMPLETE without a CKA_KEY_TYPE, CKR_ATTRIBUTE_VALUE_INVALID for one that the token has no
    pairs of, and what the family of the key does.
    """
    if CKA.KEY_TYPE not in template:
        raise Error(CKR.TEMPLATE_INCOMPLETE, "the template lacks CKA_KEY_TYPE")
    found = of_keys(to_ulong(template[CKA.KEY_TYPE]))
    if found is None:
        raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "the token has no private keys of this type")
    return found.private_key(template, attribute.CREATE)


def _domain(token: Token, template: Template, session: int) -> int:
    key_type = to_ulong(template.get(CKA.KEY_TYPE, b"\xff"))
    if key_type not in attribute.DOMAINS:
        raise Error(CKR.TEMPLATE_INCOMPLETE, "domain parameters need CKA_KEY_TYPE: CKK_DSA or CKK_DH")
    attributes = attribute.complete(template, CKO.DOMAIN_PARAMETERS, key_type, attribute.CREATE)
    parameters = domain.Domain(key_type, attributes)
    parameters.check()
    known = {CKA.PRIME_BITS: attribute.ulong(parameters.prime.bit_length()), CKA.LOCAL: attribute.FALSE}
    return token.objects.add(attributes | known, session)


def _secret_key(token: Token, template: Template, session: int) -> int:
    key = secret_key.SecretKey(template, attribute.CREATE)
    return key.add(token, template.get(CKA.VALUE, b""), attribute.of_created_key(), session, was_secret=False)


_MAKERS = {
    CKO.DATA: _data,
    CKO.CERTIFICATE: _certificate,
    CKO.PUBLIC_KEY: _public_key,
    CKO.PRIVATE_KEY: _private_key,
    CKO.SECRET_KEY: _secret_key,
    CKO.DOMAIN_PARAMETERS: _domain,
}
