"""Objects (clause 5.7)."""

from __future__ import annotations

from p11tpm.ck import CKR
from p11tpm.core.session import FIND
from p11tpm.entry.attach import entry
from p11tpm.entry.c_memory import read_template, required, write_handles, write_template
from p11tpm.entry.run import module
from p11tpm.error import answering
from p11tpm.host.imports import Late
from p11tpm.operation.find import Find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.keys import copy, create

    Ptr = Any
else:
    copy = Late("p11tpm.keys.copy")
    create = Late("p11tpm.keys.create")

_SEARCHING = {CKR.TEMPLATE_INCONSISTENT: CKR.ATTRIBUTE_VALUE_INVALID}  # codes of a template: those of a search
_READING = {CKR.USER_NOT_LOGGED_IN: CKR.OBJECT_HANDLE_INVALID}  # a logout hides private objects, also during a call


@entry
def C_CreateObject(session: int, template: Ptr, count: int, handle: Ptr) -> None:
    """Make an object from a complete description."""
    run = module()
    current = run.session(session)
    required(handle)
    wanted = read_template(template, count)
    current.require_write(wanted)
    handle[0] = run.handle_of(current.token, create.create_object(current.token, wanted, session))


@entry
def C_CopyObject(session: int, handle: int, template: Ptr, count: int, new_handle: Ptr) -> None:
    """Make a copy of an object, with other attributes where the template says so."""
    run = module()
    current = run.session(session)
    required(new_handle)
    changes = read_template(template, count)
    original = run.object(current, handle)
    current.require_write({**original.attributes, **changes})
    new_handle[0] = run.handle_of(current.token, copy.copy_object(current.token, original, changes, session))


@entry
def C_GetObjectSize(session: int, handle: int, size: Ptr) -> None:
    """Return the number of bytes that an object takes."""
    run = module()
    required(size)
    with answering(_READING):
        size[0] = run.object(run.session(session), handle).size


@entry
def C_DestroyObject(session: int, handle: int) -> None:
    """Delete an object."""
    run = module()
    current = run.session(session)
    id_ = run.id_of(current.token, handle)
    current.require_write(current.token.objects.record(id_).attributes)
    current.token.objects.destroy(id_)


@entry
def C_GetAttributeValue(session: int, handle: int, template: Ptr, count: int) -> None:
    """Read attributes of an object."""
    run = module()
    with answering(_READING):
        write_template(template, count, run.object(run.session(session), handle))


@entry
def C_SetAttributeValue(session: int, handle: int, template: Ptr, count: int) -> None:
    """Change attributes of an object."""
    run = module()
    current = run.session(session)
    changes = read_template(template, count)
    current.require_write(run.object(current, handle).attributes)
    current.token.objects.change(run.id_of(current.token, handle), changes)


@entry
def C_FindObjectsInit(session: int, template: Ptr, count: int) -> None:
    """Begin a search; two values for one attribute are CKR_ATTRIBUTE_VALUE_INVALID here (clause 5.7.8)."""
    current = module().session(session)
    current.require_none(FIND)
    with answering(_SEARCHING):
        wanted = read_template(template, count)
    current.begin(FIND, Find(current.token.objects.find(wanted)))


@entry
def C_FindObjects(session: int, objects: Ptr, most: int, count: Ptr) -> None:
    """Return the next objects that were found."""
    run = module()
    current = run.session(session)
    with current.keeping(FIND) as search:
        required(objects, count)
        handles = [run.handle_of(current.token, id_) for id_ in search.next(most)]
        write_handles(objects, count, handles)
        search.skip(len(handles))


@entry
def C_FindObjectsFinal(session: int) -> None:
    """End a search."""
    with module().session(session).using(FIND):
        pass
