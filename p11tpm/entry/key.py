"""Keys (clause 5.18) and random numbers (clause 5.19)."""

from __future__ import annotations

from _p11tpm import ffi

from p11tpm.ck import CKR
from p11tpm.entry.attach import entry
from p11tpm.entry.run import module
from p11tpm.error import Error
from p11tpm.late import loading
from p11tpm.marshal import read_mechanism, read_template, required

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Ptr = Any

MOST_RANDOM = 1 << 20  # bytes in one call; a TPM gives some 30 a command


@entry
def C_GenerateKey(session: int, mechanism: Ptr, template: Ptr, count: int, handle: Ptr) -> None:
    """Make a secret key."""
    run = module()
    current = run.session(session)
    required(handle)
    given = read_mechanism(mechanism)
    wanted = read_template(template, count)
    current.require_write(wanted)
    with loading:
        from p11tpm.operation.generate import generate_key

    handle[0] = run.handle_of(current.token, generate_key(current.token, given, wanted, session))


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
    with loading:
        from p11tpm.operation.generate import generate_pair

    ids = generate_pair(current.token, given, *templates, session)
    public_handle[0], private_handle[0] = (run.handle_of(current.token, id_) for id_ in ids)


@entry
def C_SeedRandom(session: int, _seed: Ptr, _length: int) -> None:
    """Refuse a seed: the TPM's generator takes its own."""
    module().session(session)
    raise Error(CKR.RANDOM_SEED_NOT_SUPPORTED, "the TPM seeds its own generator")


@entry
def C_GenerateRandom(session: int, out: Ptr, length: int) -> None:
    """Give random bytes of the TPM."""
    current = module().session(session)
    required(out)
    if length > MOST_RANDOM:
        raise Error(CKR.ARGUMENTS_BAD, f"at most {MOST_RANDOM} random bytes in one call")
    ffi.memmove(out, current.token.vault.random(length), length)
