"""What an X.509 certificate says, field by field: one that cannot be read does not hide the others."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from asn1crypto import core, x509

from p11tpm.cli.output import printable
from p11tpm.crypto.der import elements, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from p11tpm.crypto.der import Certificate, Element

_SHORT = {  # RFC 4514 clause 3
    "2.5.4.3": "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
}
_ENCODINGS = {  # by the tag of the string: UTF8, Numeric, Printable, Teletex, IA5, Visible, Universal, BMP
    0x0C: "utf-8",
    **dict.fromkeys((0x12, 0x13, 0x14, 0x16, 0x1A), "latin-1"),  # Teletex: as other programs write and read it
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}
_SPECIAL = '\\"+,;<>'


def described(certificate: Certificate) -> dict[str, str]:
    """Return what can be read of it; times are in UTC, as far as they say so."""
    fields: dict[str, tuple[Callable[[bytes], str], bytes]] = {
        "subject": (name, certificate.subject),
        "issuer": (name, certificate.issuer),
        "serial_number": (_number, certificate.serial),
        "not_before": (lambda value: _time(value, 0), certificate.validity),
        "not_after": (lambda value: _time(value, 1), certificate.validity),
    }
    said = {}
    for field, (read, value) in fields.items():
        try:
            said[field] = printable(read(value))
        except (ValueError, IndexError):
            continue
    return said


def name(value: bytes) -> str:
    """Write a Name as RFC 4514 has it, the last part first; a value that is not text is written in hexadecimal."""
    parts = ["+".join(map(_attribute, elements(part.content))) for part in elements(whole(value).content)]
    return ",".join(part for part in reversed(parts) if part)


def _attribute(pair: Element) -> str:
    oid, value = elements(pair.content)
    dotted = core.ObjectIdentifier.load(oid.whole).dotted
    return f"{_SHORT.get(dotted, dotted)}={_text(value)}"


def _text(value: Element) -> str:
    encoding = _ENCODINGS.get(value.tag)
    if encoding is None:
        return f"#{value.whole.hex()}"
    text = value.content.decode(encoding, errors="replace")
    escaped = "".join(f"\\{character}" if character in _SPECIAL else character for character in text)
    if escaped.endswith(" "):
        escaped = f"{escaped[:-1]}\\ "
    return f"\\{escaped}" if escaped[:1] in {"#", " "} else escaped


def _number(value: bytes) -> str:
    return f"{int.from_bytes(whole(value).content, 'big', signed=True):x}"


def _time(validity: bytes, which: int) -> str:
    """Write one of two times as ISO 8601 has it; any other value stands as it is."""
    found = [*elements(whole(validity).content)][which]
    try:
        time = x509.Time.load(found.whole).native
        return str((time.astimezone(UTC) if time.tzinfo else time).isoformat())
    except (ValueError, OverflowError):
        return found.content.decode("latin-1")
