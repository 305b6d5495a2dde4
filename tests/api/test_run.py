"""A run of the library: C_Initialize in every legal form, what it says of itself, its slots."""

import os
import sqlite3
from contextlib import closing
from importlib import metadata

import pytest
from ciphers import fails
from cryptoki import Cryptoki, Rv

from p11tpm.ck import CKF, CKR
from p11tpm.mechanism import MECHANISMS
from p11tpm.store import Store

NULL = 0
CURVES = CKF.EC_F_P | CKF.EC_NAMEDCURVE | CKF.EC_UNCOMPRESS | CKF.EC_CURVENAME


@pytest.fixture
def run(settings, module_path):
    """A library that has not been initialised, with a TPM that nobody answers for."""
    settings.setenv("P11TPM_TCTI", "swtpm:host=127.0.0.1,port=1")
    library = Cryptoki(module_path)
    library.initialize()
    library.finalize()
    yield library
    library.finalize()


def arguments(run, flags, functions=(NULL,) * 4, reserved=NULL):
    given = run.ffi.new("CK_C_INITIALIZE_ARGS *")
    for field, function in zip(("CreateMutex", "DestroyMutex", "LockMutex", "UnlockMutex"), functions, strict=True):
        setattr(given, field, run.ffi.cast(run.ffi.typeof(getattr(given, field)), function))
    given.flags, given.pReserved = flags, run.ffi.cast("void *", reserved)
    return given


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
@pytest.mark.parametrize("functions", [(0, 0, 0, 0), (1, 1, 1, 1)])
def test_every_legal_form_of_initialize(run, flags, functions):
    run.C_Initialize(arguments(run, flags, functions))
    run.C_Finalize(run.ffi.NULL)


def test_the_reserved_string_of_nss(run):
    text = run.ffi.new("char[]", b"configdir='' flags=readOnly")
    run.C_Initialize(arguments(run, CKF.OS_LOCKING_OK, reserved=int(run.ffi.cast("uintptr_t", text))))
    run.C_Finalize(run.ffi.NULL)


def test_illegal_forms_and_calls_out_of_turn(run):
    assert run.raw.C_Initialize(arguments(run, 0, (1, 1, 0, 1))) == CKR.ARGUMENTS_BAD
    assert run.raw.C_Finalize(run.ffi.NULL) == CKR.CRYPTOKI_NOT_INITIALIZED
    assert run.raw.C_GetInfo(run.ffi.NULL) == CKR.CRYPTOKI_NOT_INITIALIZED
    run.C_Initialize(run.ffi.NULL)
    assert run.raw.C_Initialize(run.ffi.NULL) == CKR.CRYPTOKI_ALREADY_INITIALIZED


def text_of(run, field):
    return bytes(run.ffi.buffer(field)).decode()


def test_info(run):
    run.C_Initialize(run.ffi.NULL)
    info = run.ffi.new("CK_INFO *")
    run.C_GetInfo(info)
    assert (info.cryptokiVersion.major, info.cryptokiVersion.minor) == (3, 0)
    assert metadata.version("p11tpm").startswith(f"{info.libraryVersion.major}.{info.libraryVersion.minor}.")
    assert "p11tpm".ljust(32) == text_of(run, info.manufacturerID)
    assert info.flags == 0


def test_a_store_without_a_token_shows_one_slot_without_touching_the_tpm(run):
    run.C_Initialize(run.ffi.NULL)
    (slot,) = run.slots()
    info = run.token_info(slot)
    assert not info.flags & CKF.TOKEN_INITIALIZED
    with pytest.raises(Rv) as error:
        run.open(slot)
    assert error.value == CKR.TOKEN_NOT_RECOGNIZED
    assert run.raw.C_InitToken(slot, b"1234", 4, b"x" * 32) == CKR.DEVICE_REMOVED
    assert run.raw.C_InitToken(slot, b"123", 3, b"x" * 32) == CKR.PIN_LEN_RANGE


def test_the_token_that_was_made_is_in_the_slot_that_was_shown(bare):
    (slot,) = bare.slots()
    bare.init_token(slot, b"so-secret", "label")
    assert [slot] == bare.slots()
    info = bare.token_info(slot)
    assert "label".ljust(32) == text_of(bare, info.label)
    assert info.flags & CKF.TOKEN_INITIALIZED
    assert info.flags & CKF.LOGIN_REQUIRED
    assert len(text_of(bare, info.serialNumber).strip()) == 16
    assert text_of(bare, info.model).strip()
    assert text_of(bare, info.utcTime) == " " * 16


def test_mechanisms(token):
    slot = token.slots()[0]
    count = token.ulong()
    token.C_GetMechanismList(slot, token.ffi.NULL, count)
    short = token.ffi.new("CK_ULONG[]", 1)
    assert token.raw.C_GetMechanismList(slot, short, token.ffi.new("CK_ULONG *", 1)) == CKR.BUFFER_TOO_SMALL
    types = token.ffi.new("CK_ULONG[]", count[0])
    token.C_GetMechanismList(slot, types, count)
    assert set(MECHANISMS) == set(types)
    capabilities = Store(os.environ["P11TPM_STORE"]).tokens()[0].capabilities.split()
    for type_ in types:
        info = token.ffi.new("CK_MECHANISM_INFO *")
        token.C_GetMechanismInfo(slot, type_, info)
        assert bool(info.flags & CKF.HW) == MECHANISMS[type_].in_hardware(capabilities)
        assert info.flags & ~(CKF.HW | CURVES) == MECHANISMS[type_].does
        assert (0 < info.ulMinKeySize <= info.ulMaxKeySize) or info.flags & CKF.DIGEST
    assert token.raw.C_GetMechanismInfo(slot, 0x999, info) == CKR.MECHANISM_INVALID


def test_thirty_runs_in_one_process(token):
    for _ in range(30):
        token.finalize()
        token.initialize()
        assert len(token.slots()) == 1


@pytest.mark.usefixtures("settings")
def test_a_database_of_another_program_is_named_in_the_log(module_path, tmp_path):
    """Where the store should be; nothing is written into it, whatever a program asks for."""
    log, file = tmp_path / "log", tmp_path / "store" / "p11tpm.db"
    file.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE nssPublic (id PRIMARY KEY, a0)")
    file.chmod(0o600)
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    (tmp_path / "p11tpm.conf").write_text(f"log = {log}\n")
    run = Cryptoki(module_path)
    run.initialize()
    fails(CKR.DEVICE_ERROR, run.slots)
    fails(CKR.DEVICE_ERROR, run.init_token, 1, b"so-secret", "mine")
    run.finalize()
    assert f"C_GetSlotList: CKR_DEVICE_ERROR: {file} is the database of another program" in log.read_text()
    assert (file.read_bytes(), file.stat().st_mtime_ns, list(file.parent.iterdir())) == (*before, [file])
