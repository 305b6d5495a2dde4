"""Keys (clause 5.18) and random numbers (clause 5.19)."""

from __future__ import annotations

from _p11tpm import ffi

from p11tpm.attribute import with_template
from p11tpm.ck import CKA, CKR
from p11tpm.entry.attach import entry
from p11tpm.entry.c_memory import output, plausible, read_bytes, read_mechanism, read_template, required
from p11tpm.entry.run import module
from p11tpm.host.imports import Late

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from p11tpm.keys import derive, generate, wrap

    Ptr = Any
else:
    derive = Late("p11tpm.keys.derive")
    generate = Late("p11tpm.keys.generate")
    wrap = Late("p11tpm.keys.wrap")

RANDOM_PIECE = 1 << 12  # bytes: a TPM gives some 30 a command, and others wait for it meanwhile
LONGEST_SEED = 1 << 16  # bytes in one call; a TPM takes 128 a command
LONGEST_WRAPPED = 1 << 16


@entry
def C_GenerateKey(session: int, mechanism: Ptr, template: Ptr, count: int, handle: Ptr) -> None:
    """Make a secret key."""
    run = module()
    current = run.session(session)
    required(handle)
    given = read_mechanism(mechanism)
    wanted = read_template(template, count)
    current.require_write(wanted)
    handle[0] = run.handle_of(current.token, generate.generate_key(current.token, given, wanted, session))


@entry
def C_GenerateKeyPair(
    session: int,
    mechanism: Ptr,
    public: Ptr,
    public_count: int,
    private: Ptr,
    private_count: int,
    public_handle: Ptr,
    private_handle: Ptr,
) -> None:
    """Make a key pair in the TPM."""
    run = module()
    current = run.session(session)
    required(public_handle, private_handle)
    given = read_mechanism(mechanism)
    templates = read_template(public, public_count), read_template(private, private_count)
    for template in templates:
        current.require_write(template)
    ids = generate.generate_pair(current.token, given, *templates, session)
    public_handle[0], private_handle[0] = (run.handle_of(current.token, id_) for id_ in ids)


@entry
def C_DeriveKey(session: int, mechanism: Ptr, base: int, template: Ptr, count: int, handle: Ptr) -> None:
    """Make a key from a key."""
    run = module()
    current = run.session(session)
    required(handle)
    given = read_mechanism(mechanism)
    key = run.key(current, base)
    wanted = with_template(read_template(template, count), key.attributes, CKA.DERIVE_TEMPLATE)
    current.require_write(wanted)
    id_ = derive.derive_key(current.token, lambda other: run.key(current, other), key, given, wanted, session)
    handle[0] = run.handle_of(current.token, id_)


@entry
def C_WrapKey(session: int, mechanism: Ptr, wrapping: int, key: int, out: Ptr, out_length: Ptr) -> None:
    """Encrypt a key by a key."""
    run = module()
    current = run.session(session)
    given = read_mechanism(mechanism)
    by = run.key(current, wrapping, CKR.WRAPPING_KEY_HANDLE_INVALID)
    work = wrap.Wrapping(current.token, by, run.key(current, key), given)
    buffer = output(out, out_length, work.size)
    buffer.write(work.wrap())


@entry
def C_UnwrapKey(
    session: int,
    mechanism: Ptr,
    unwrapping: int,
    wrapped: Ptr,
    wrapped_length: int,
    template: Ptr,
    count: int,
    handle: Ptr,
) -> None:
    """Make a key of one that was encrypted by a key."""
    run = module()
    current = run.session(session)
    required(handle)
    given = read_mechanism(mechanism)
    data = read_bytes(wrapped, wrapped_length, LONGEST_WRAPPED, CKR.WRAPPED_KEY_LEN_RANGE)
    by = run.key(current, unwrapping, CKR.UNWRAPPING_KEY_HANDLE_INVALID)
    wanted = with_template(read_template(template, count), by.attributes, CKA.UNWRAP_TEMPLATE)
    current.require_write(wanted)
    handle[0] = run.handle_of(current.token, wrap.unwrap_key(current.token, by, given, data, wanted, session))


@entry
def C_SeedRandom(session: int, seed: Ptr, length: int) -> None:
    """Add a seed to that of the TPM's generator."""
    current = module().session(session)
    data = read_bytes(seed, length, LONGEST_SEED)
    if data:
        current.token.tpm.seed(data)


@entry
def C_GenerateRandom(session: int, out: Ptr, length: int) -> None:
    """Return random bytes of the TPM."""
    current = module().session(session)
    required(out)
    for at in range(0, plausible(length), RANDOM_PIECE):
        piece = min(length - at, RANDOM_PIECE)
        ffi.memmove(out + at, current.token.tpm.random(piece), piece)
