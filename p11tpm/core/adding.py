"""New objects of a token, which are written together: C_CreateObject, C_GenerateKeyPair and the like."""

from __future__ import annotations

from p11tpm.attribute import TRUE
from p11tpm.ck import CKA, CKR, CKU
from p11tpm.core.key_material import KeyMaterial
from p11tpm.core.object import is_encrypted
from p11tpm.error import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from p11tpm.attribute import Template
    from p11tpm.core.token_state import TokenState
    from p11tpm.store.rows import Record
    from p11tpm.store.session_objects import SessionObjects


class Adding:
    """A context with the token's lock, at whose end the objects that were added in it are written, all or none.

    The lock is held while keys are made, so that the login that they are made with does not end meanwhile. After an
    error nothing is written.
    """

    __slots__ = ("_in_session", "_records", "_session", "_templates", "_token")

    def __init__(
        self, token: TokenState, in_session: SessionObjects, session: int, templates: tuple[Template, ...]
    ) -> None:
        self._token = token
        self._in_session = in_session
        self._session = session
        self._templates = templates
        self._records: list[Record] = []

    def __enter__(self) -> Self:
        self._token.lock.acquire()
        try:
            for attributes in self._templates:
                self._check(attributes)
        except BaseException:
            self._token.lock.release()
            raise
        return self

    def add(self, attributes: Template, material: KeyMaterial | None = None) -> Record:
        """Add an object; its record has an identifier when the context has ended."""
        record = (material or KeyMaterial()).record(self._token.id, attributes)
        self._records.append(record)
        return record

    def __exit__(self, type_: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                with self._token.lock:  # a GoneError ends the login, from here or out of the context
                    self._write()
        finally:
            self._token.lock.__exit__(type_, error, trace)

    def _check(self, attributes: Template) -> None:
        """Refuse a new object that whoever is logged in may not make; CKA_TRUSTED is for the SO."""
        self._token.require_writer(attributes)
        if attributes.get(CKA.TRUSTED) == TRUE and self._token.logged_in != CKU.SO:
            raise Error(CKR.ATTRIBUTE_READ_ONLY, "CKA_TRUSTED is for the SO to set")

    def _write(self) -> None:
        """Write the objects, all or none: to the store, in one transaction, or for as long as the session.

        What the store keeps is encrypted first where it has to be, and authenticated if there is a login: the one that
        allows the objects, which may have ended since anybody asked. GoneError if the token is another one by now.
        """
        for record in self._records:
            self._check(record.attributes)
            self._seal(record)
        kept = [record for record in self._records if record.attributes[CKA.TOKEN] == TRUE]
        passing = [record for record in self._records if record.attributes[CKA.TOKEN] != TRUE]
        if kept:
            for record, id_ in zip(kept, self._token.store.add(kept, self._token.whose), strict=True):
                record.id = id_
        if passing:
            self._in_session.add(passing, self._session)

    def _seal(self, record: Record) -> None:
        attributes = record.attributes
        if is_encrypted(attributes):
            attributes[CKA.VALUE] = self._token.tpm.secret.encrypt(record.uuid, attributes[CKA.VALUE])
        if attributes[CKA.TOKEN] == TRUE and record.secret is not None:
            record.secret = self._token.tpm.secret.encrypt(record.uuid, record.secret)
        if self._token.sees_private:
            record.mac = self._token.tpm.secret.mac(record)
