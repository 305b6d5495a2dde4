"""C memory in, values out, and back. Beside `entry` the only file that knows the cffi of the C ABI.

Every pointer of a host passes here once: NULL and absurd lengths are refused before anything is read.
"""

from __future__ import annotations

from _p11tpm import ffi

from p11tpm.attribute import TEMPLATES, pack, unpack
from p11tpm.ck import CKA, CKR, UNAVAILABLE, name
from p11tpm.error import Error, LengthOnly
from p11tpm.given import Given

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from p11tpm.attribute import Template
    from p11tpm.core.object import Object

NULL = ffi.NULL
LONGEST = 1 << 30  # bytes: no host has a longer piece of data in memory and means it
MOST_ATTRIBUTES = 1024
LONGEST_POINTED = 1 << 26  # bytes that a parameter points to: associated data, labels, points
Ptr = object

# An empty CKA_ALLOWED_MECHANISMS allows none (clause 4.7), and is kept as a list with the number of none: the value of
# a key that was made without this attribute by an older version is empty.
_NONE_ALLOWED = UNAVAILABLE.to_bytes(8, "little")
_ATTRIBUTE = ffi.sizeof("CK_ATTRIBUTE")


def required(*pointers: Any) -> None:
    """Refuse NULL where the standard wants an address: CKR_ARGUMENTS_BAD."""
    if NULL in pointers:
        raise Error(CKR.ARGUMENTS_BAD, "a pointer is NULL")


def read_bytes(data: Any, length: int, longest: int = LONGEST, too_long: int = CKR.ARGUMENTS_BAD) -> bytes:
    """Read `length` bytes; NULL with a length is CKR_ARGUMENTS_BAD, more than `longest` is `too_long`."""
    if length > longest:
        raise Error(too_long, f"a length of {length} bytes cannot be meant")
    if data == NULL:
        if length:
            raise Error(CKR.ARGUMENTS_BAD, "a pointer is NULL, but its length is not 0")
        return b""
    return bytes(ffi.buffer(data, length))


def plausible(length: int) -> int:
    """Check the length of a piece of data; CKR_ARGUMENTS_BAD if it cannot be meant."""
    if length > LONGEST:
        raise Error(CKR.ARGUMENTS_BAD, f"a length of {length} bytes cannot be meant")
    return length


class Output:
    """The buffer for the result of a call, by the rule of two calls (clause 5.2); one of the functions below makes it.

    Without a buffer the length that is asked for is answered, and the call ends: LengthOnly. No result is made then.
    """

    __slots__ = ("_length", "_out")

    def __init__(self, out: Any, length: Any, wanted: int) -> None:
        required(length)
        if out == NULL:
            length[0] = wanted
            raise LengthOnly
        self._out = out
        self._length = length

    def require(self, size: int) -> None:
        """Refuse a buffer of less than `size` bytes: CKR_BUFFER_TOO_SMALL, with the length that it needs."""
        if self._length[0] < size:
            self._length[0] = size
            raise Error(CKR.BUFFER_TOO_SMALL, f"the result needs {size} bytes")

    def write(self, result: bytes) -> None:
        """Write the result and its length; nothing but the length if the buffer is too small."""
        self.require(len(result))
        ffi.memmove(self._out, result, len(result))
        self._length[0] = len(result)


def output(out: Any, length: Any, size: int, part: int = 0) -> Output:
    """Return the buffer for a result that is made once, of at most `size` bytes, for which it has to have room first.

    `part` is the length of what an operation of several parts is given: for its buffer as many bytes are asked for,
    since many a host makes a buffer of no bytes that is NULL, whose call would be a question again, and take nothing.
    """
    buffer = Output(out, length, max(size, part))
    buffer.require(size)
    return buffer


def kept_output(out: Any, length: Any, bound: int) -> Output:
    """Return the buffer for a result whose own length decides: it is made again, or kept, if the buffer was too small.

    `bound` is what is answered without a buffer. A buffer of one byte is asked for if there is nothing to come: one of
    no bytes may be NULL, and then the operation would not end, nor would its data be seen to be authentic.
    """
    return Output(out, length, max(1, bound))


def write_list(out: Any, length: Any, values: list[int]) -> None:
    """Answer a call that gives a list of CK_ULONG back: the rule of two calls again, counted in elements."""
    required(length)
    room = length[0]
    length[0] = len(values)
    if out == NULL:
        return
    if room < len(values):
        raise Error(CKR.BUFFER_TOO_SMALL, f"there are {len(values)} elements")
    out[0 : len(values)] = values


def write_text(field: Any, text: str) -> None:
    """Fill a text field of a structure: UTF-8, cut at a character, padded with blanks, not ended by NUL (clause 3.1).

    Bytes of a label that is not UTF-8 are in `text` as surrogateescape has them.
    """
    size = ffi.sizeof(field)
    value = text.encode(errors="surrogateescape")
    if len(value) > size:
        value = value[:size].decode(errors="ignore").encode()
    ffi.memmove(field, value.ljust(size), size)


def zeroed(struct: Any) -> Any:
    """Refuse NULL and clear a structure that is to be filled."""
    required(struct)
    ffi.memmove(struct, bytes(ffi.sizeof(struct[0])), ffi.sizeof(struct[0]))
    return struct


def read_template(attributes: Any, number: int, *, nested: bool = False) -> Template:
    """Read a template, in any order; CKR_TEMPLATE_INCONSISTENT for one attribute type with two values (clause 4.1.1).

    The value of an attribute that is a template itself is as `pack` encodes it.
    """
    if number > MOST_ATTRIBUTES or (number and attributes == NULL):
        raise Error(CKR.ARGUMENTS_BAD, "the template is NULL or its length cannot be meant")
    template: Template = {}
    for index in range(number):
        entry = attributes[index]
        try:
            value = _read_value(entry, nested=nested)
        except Error as error:
            raise Error(CKR.ATTRIBUTE_VALUE_INVALID, f"{name(CKA, entry.type)}: {error.why}") from None
        if template.setdefault(entry.type, value) != value:
            raise Error(CKR.TEMPLATE_INCONSISTENT, f"{name(CKA, entry.type)} has two values in the template")
    return template


def _read_value(entry: Any, *, nested: bool) -> bytes:
    if entry.type not in TEMPLATES:
        value = read_bytes(entry.pValue, entry.ulValueLen)
        return _NONE_ALLOWED if entry.type == CKA.ALLOWED_MECHANISMS and not value else value
    number, rest = divmod(entry.ulValueLen, _ATTRIBUTE)
    if nested or rest:
        raise Error(CKR.ATTRIBUTE_VALUE_INVALID, "the value must be an array of CK_ATTRIBUTE without further arrays")
    return pack(read_template(ffi.cast("CK_ATTRIBUTE *", entry.pValue), number, nested=True))


def write_template(attributes: Any, number: int, thing: Object) -> None:
    """Answer C_GetAttributeValue (clause 5.7.5): every attribute is answered, the first failure is the call's.

    An attribute that is absent or sensitive gets CK_UNAVAILABLE_INFORMATION for a length, and so does one whose buffer
    is too small.
    """
    if number > MOST_ATTRIBUTES or (number and attributes == NULL):
        raise Error(CKR.ARGUMENTS_BAD, "the template is NULL or its length cannot be meant")
    failure: Error | None = None
    for index in range(number):
        entry = attributes[index]
        try:
            _write_attribute(entry, thing.get(entry.type))
        except Error as error:
            entry.ulValueLen = UNAVAILABLE
            failure = failure or error
    if failure is not None:
        raise failure


def _write_array(entry: Any, template: Template) -> None:
    """Answer an attribute that is a template: its size, or each of its attributes by the same rules."""
    size = _ATTRIBUTE * len(template)
    if entry.pValue == NULL:
        entry.ulValueLen = size
        return
    if entry.ulValueLen < size:
        raise Error(CKR.BUFFER_TOO_SMALL, f"{name(CKA, entry.type)} needs {size} bytes")
    entry.ulValueLen = size
    inner = ffi.cast("CK_ATTRIBUTE *", entry.pValue)
    failure: Error | None = None
    for index, (type_, value) in enumerate(template.items()):
        inner[index].type = type_
        try:
            _write_attribute(inner[index], value)
        except Error as error:
            inner[index].ulValueLen = UNAVAILABLE
            failure = error
    if failure is not None:
        raise failure


def _write_attribute(entry: Any, value: bytes) -> None:
    if entry.type in TEMPLATES:
        _write_array(entry, unpack(value))
        return
    if entry.type == CKA.ALLOWED_MECHANISMS:
        value = _allowed(value)
    if entry.pValue == NULL:
        entry.ulValueLen = len(value)
        return
    if entry.ulValueLen < len(value):
        raise Error(CKR.BUFFER_TOO_SMALL, f"{name(CKA, entry.type)} needs {len(value)} bytes")
    ffi.memmove(entry.pValue, value, len(value))
    entry.ulValueLen = len(value)


def _allowed(value: bytes) -> bytes:
    if not value:
        raise Error(CKR.ATTRIBUTE_TYPE_INVALID, "the key has no CKA_ALLOWED_MECHANISMS, which allows all of them")
    return b"" if value == _NONE_ALLOWED else value


def read_mechanism(mechanism: Any) -> Given:
    """Return a mechanism: of its parameter, which the host may free after the call, nothing is read yet."""
    required(mechanism)
    address = int(ffi.cast("uintptr_t", mechanism.pParameter))
    return Given(mechanism.mechanism, address, mechanism.ulParameterLen, _fetch)


def _fetch(address: int, length: int) -> bytes:
    return read_bytes(ffi.cast("void *", address), length, LONGEST_POINTED, CKR.MECHANISM_PARAM_INVALID)


def write_handles(out: Any, count: Any, handles: Iterable[int]) -> None:
    """Write handles, as many as the caller has room for; the caller has asked for no more."""
    number = 0
    for number, handle in enumerate(handles, 1):
        out[number - 1] = handle
    count[0] = number
