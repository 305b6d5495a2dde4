"""``p11tpm doctor``: look at everything that has to be right, and say what to do about what is not."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p11tpm.ck import CKA, CKR, CKU
from p11tpm.cli import module
from p11tpm.cli.machine import Machine
from p11tpm.cli.output import as_text, example, json_option, print_json, printable
from p11tpm.core.binding import described, way_back
from p11tpm.core.pin import ROLES, reserve
from p11tpm.core.pin_file import PinFile
from p11tpm.error import Error
from p11tpm.host import files
from p11tpm.host.config import Config
from p11tpm.store.rows import counts_guesses
from p11tpm.tpm import Srk, Tpm
from p11tpm.tpm.room import Room
from p11tpm.tpm.state import States, written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p11tpm.core.token import Token
    from p11tpm.tpm import Lockout

OK, NOTE, WRONG = "ok", "note", "wrong"
_COLOURS = {OK: "green", NOTE: "yellow", WRONG: "red"}
_MAKERS_OF_CHIPS = frozenset({"ATML", "IFX", "NTC", "NTZ", "STM"})  # TCG Vendor ID Registry
_SLOW_SWAP = 0.01  # seconds
_OF_FIRMWARE = range(4)  # PCRs: TCG PC Client Platform Firmware Profile, clause 3.3.4
_AGENT_ALLOWS = ("/usr/lib*/*", "/usr/local/lib*/*")  # ssh-agent(1), option -P


class Finding:
    """One thing that was looked at: how it is, and, unless it is well, what to do."""

    __slots__ = ("about", "remedy", "state", "text")

    def __init__(self, about: str, state: str, text: str, remedy: str = "") -> None:
        self.about = about
        self.state = state
        self.text = text
        self.remedy = remedy

    def show(self) -> None:
        """Print it for a person."""
        click.echo(f"{click.style(self.state.ljust(5), fg=_COLOURS[self.state])}  {self.about}: {self.text}")
        if self.remedy:
            click.echo(f"       do: {self.remedy}")


@click.command(epilog=example("p11tpm doctor", "p11tpm doctor --json"))
@json_option
def doctor(*, as_json: bool) -> int:
    """Check the machine, and print a remedy for each fault.

    Checks the module, the store, the TPM and the tokens. Changes nothing and needs no PIN.

    Exit status: 1 if something is wrong; notes do not count.
    """
    findings = list(_findings())
    if as_json:
        print_json([{slot: getattr(one, slot) for slot in ("about", "state", "text", "remedy")} for one in findings])
    else:
        for one in findings:
            one.show()
    return int(any(one.state == WRONG for one in findings))


def _findings() -> Iterator[Finding]:
    yield _module()
    try:
        config = Config.load()
    except Error as error:
        yield Finding("configuration", WRONG, error.why, "see conf.example for what may be set, and how")
        return
    try:
        machine = Machine(config)
    except Error as error:
        yield Finding("store", WRONG, error.why, f"see that the 'store' {config.store} is p11tpm's own")
        return
    with machine:
        yield _store(Path(machine.config.store))
        yield from _log(machine.config.log)
        yield from _pin_file(machine.config)
        device = _device(machine.config)
        yield device
        if device.state == WRONG:
            return
        yield from _bus(machine)
        try:
            yield from _tpm(machine)
            yield from _room(machine)
            usable: list[Token] = []
            for token in machine.tokens:
                yield (found := _token(machine, token))
                if found.state != WRONG:
                    yield from _binding(token)
                    yield from _residents(token)
                    usable.append(token)
            yield from _strays(usable)
        except Error as error:
            yield Finding(
                "TPM", WRONG, error.why, "see that the TPM is on, that 'tcti' names it, and that nothing else holds it"
            )


def _module() -> Finding:
    path = Path(module.path())
    if not path.is_file() or path.is_symlink():
        return Finding("module", WRONG, f"{path} is not a regular file", "build it: 'make build' or 'make install'")
    real = str(path.resolve())
    if not any(fnmatchcase(real, pattern) for pattern in _AGENT_ALLOWS):
        return Finding(
            "module",
            NOTE,
            f"{path} is not where ssh-agent looks for modules by default",
            f"'make install', or start the agent with: ssh-agent -P '{real}'",
        )
    return Finding("module", OK, str(path))


def _store(directory: Path) -> Finding:
    try:
        status = directory.stat()
    except FileNotFoundError:
        return Finding("store", NOTE, f"there is none yet in {directory}", "p11tpm init")
    except NotADirectoryError:
        remedy = "set 'store' in p11tpm.conf to a directory that can be made"
        return Finding("store", WRONG, f"{directory} cannot be made: a part of its path is not a directory", remedy)
    owner = _user_name(status.st_uid)
    files = [directory, *directory.glob("p11tpm.db*")]
    if status.st_uid != os.geteuid() or not os.access(directory, os.W_OK):
        return Finding("store", NOTE, f"{directory} is {owner}'s and read-only here: keys work, changes do not")
    modes = {str(file): stat.S_IMODE(file.stat().st_mode) for file in files}
    open_ = [file for file, mode in modes.items() if mode & 0o027]
    if open_:
        text = f"others can read, and so keep from changing, {', '.join(open_)}"
        return Finding("store", WRONG, text, f"chmod o=,g-w {' '.join(open_)}")
    if any(mode & 0o040 for mode in modes.values()):
        text = f"{directory} may be read by group {_group_name(status.st_gid)}, whose programs may use the keys"
        return Finding("store", NOTE, text, f"if none does: chmod -R g= {directory}")
    return Finding("store", OK, f"{directory}, {owner}'s alone")


def _log(path: str) -> Iterator[Finding]:
    """Check whether a log that is a file would be written to, which programs do not say."""
    if not path.startswith("/"):
        return
    why = "" if files.may_write(path) else f"{path} may not be written to by {_user_name(os.geteuid())}"
    try:
        files.check_log(path)
    except Error as error:
        why = error.why
    except OSError as error:
        why = f"{path}: {error.strerror}"
    if why:
        yield Finding("log", WRONG, why, "set 'log' to a file in a directory that no other user may write to")
    else:
        yield Finding("log", OK, path)


def _pin_file(config: Config) -> Iterator[Finding]:
    """Check whether the PIN can be read, not whether it is right: the TPM would count a wrong one."""
    if not config.pin_file:
        return
    path, user = config.pin_file, _user_name(os.geteuid())
    about = "PIN file"
    remedy = f"write the PIN, and nothing else, into {path}, then: chown {user} {path} && chmod 600 {path}"
    if os.geteuid() != 0 and not os.access(path, os.R_OK):
        remedy = "if it is not for this user: write 'pin-file = none' into ~/.config/p11tpm.conf"
    if config.pin_credential:
        about = "PIN file of systemd"
        remedy = "see LoadCredential= or LoadCredentialEncrypted= of the service, and what it names"
    try:
        PinFile.configured(config).read()
    except Error as error:
        yield Finding(about, WRONG, error.why, remedy)
    else:
        yield Finding(about, OK, path)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _device(config: Config) -> Finding:
    kind, _, rest = config.tcti.partition(":")
    if kind != "device":
        return Finding("TPM connection", OK, config.tcti)
    path = Path(rest or "/dev/tpmrm0")
    if not path.exists():
        return Finding(
            "TPM device", WRONG, f"there is no {path}", "switch the TPM 2.0 (fTPM, PTT) on in the firmware set-up"
        )
    if os.access(path, os.R_OK | os.W_OK):
        return Finding("TPM device", OK, str(path))
    return Finding("TPM device", WRONG, f"{path} may not be opened by {_user_name(os.getuid())}", how_to_open(path))


def how_to_open(path: Path) -> str:
    """Return how this user gets at the device: by its group, which Debian's package tpm-udev makes ``tss``."""
    status = path.stat()
    groups = [group for group in grp.getgrall() if group.gr_gid == status.st_gid != 0]
    if not groups or stat.S_IMODE(status.st_mode) & 0o060 != 0o060:
        return "install the package tpm-udev, and start the machine again"
    user, group = _user_name(os.getuid()), groups[0]
    if user in group.gr_mem:
        return f"log out and in again: you are in group {group.gr_name} by now, this login is not"
    return f"sudo usermod -aG {group.gr_name} {user}, then log out and in again"


def _bus(machine: Machine) -> Iterator[Finding]:
    """Doubt that nobody can listen to the TPM of a maker of chips, for which the configuration says so."""
    makers = {token.row.tpm.partition("|")[0] for token in machine.tokens} & _MAKERS_OF_CHIPS
    if machine.config.bus == "trusted" and makers:
        text = f"trusted, but {', '.join(makers)} makes TPMs that are on one: anyone who listens there reads secrets"
        yield Finding("TPM bus", NOTE, text, "take 'bus = trusted' out of p11tpm.conf")


def _tpm(machine: Machine) -> Iterator[Finding]:
    tpm = Tpm(machine.config.tcti)
    try:
        lockout = tpm.lockout()
    finally:
        tpm.release()
    tries = f"{lockout.counter} of {lockout.max_tries} wrong PINs counted, one forgiven every {lockout.interval} s"
    excess = lockout.counter + reserve(lockout.max_tries) - lockout.max_tries
    if lockout.locked or (excess >= 0 and machine.store.any_failure()):
        end = _forgiven(machine, lockout, max(excess, 0) + 1)
        why = "locked" if lockout.locked else "the rest is left to other programs"
        text = f"logins with a PIN are refused now, {end}: {tries}, {why}"
        yield Finding("TPM lockout", WRONG, text, "wait, or: tpm2_dictionarylockout --clear-lockout")
    elif excess >= 0:
        text = f"{tries}; the rest is left to others: after a wrong PIN, logins are refused until one is forgiven"
        yield Finding("TPM lockout", NOTE, text, "wait, or: tpm2_dictionarylockout --clear-lockout")
    else:
        yield Finding("TPM lockout", OK, tries)
    if lockout.auth_set:
        yield Finding("TPM lockout authorisation", OK, "set")
    else:
        yield Finding(
            "TPM lockout authorisation",
            NOTE,
            "empty: anyone who can open the TPM can reset the count of wrong PINs, and so guess on",
            "tpm2_changeauth --object-context=lockout file:NEW, and keep that file: without it nobody clears a lockout",
        )


def _forgiven(machine: Machine, lockout: Lockout, tries: int) -> str:
    """Return until when the TPM forgives so many wrong PINs, the first of them an interval after the last one."""
    if not lockout.interval:
        return "until they are cleared"
    now, wait = time.time(), tries * lockout.interval
    last = max(
        (machine.store.failures(token.id, role)[1] for token in machine.tokens for role in ROLES.values()), default=0
    )
    end = time.localtime((last if last + wait > now else now) + wait)  # else another program's came later
    return f"until about {time.strftime('%Y-%m-%d %H:%M:%S', end)}"


def _room(machine: Machine) -> Iterator[Finding]:
    """Check whether a session and a key find room in the TPM, as a login and a signature need it."""
    room = Room(machine.tokens[0].tpm.tpm if machine.tokens else Tpm(machine.config.tcti))
    there = f"{room.loaded} loaded and {room.saved} saved sessions are in it"
    there = there if room.managed else f"{room.objects} keys, {there}"
    if room.flush:
        tcti = machine.config.tcti.replace("/dev/tpmrm", "/dev/tpm")  # the manager shows its own keys only
        remedy = "end the programs that use it ('fuser -v /dev/tpm*' lists them), or flush what others have in it"
        text = f"it has no room for a session and a key: {there}"
        yield Finding("TPM room", WRONG, text, f"{remedy}: tpm2_flushcontext -T {tcti} {room.flush}")
        return
    yield Finding("TPM room", OK, f"a session and a key find room; {there}")
    if room.managed:
        yield _swap(room.swap)


def _swap(seconds: float) -> Finding:
    """Report what it costs that the resource manager swaps a key in and out around each command."""
    text = f"{seconds * 1000:.1f} ms for each use of a key to swap it in and out"
    if seconds < _SLOW_SWAP:
        return Finding("TPM resource manager", OK, f"{text}, which 'p11tpm key resident' spares a busy one")
    remedy = "for keys that are used often: p11tpm key resident KEY"
    return Finding("TPM resource manager", NOTE, text, remedy)


def _token(machine: Machine, token: Token) -> Finding:
    about = f"token '{printable(token.label)}'"
    try:
        token.tpm.check()
    except Error as error:
        if error.rv != CKR.TOKEN_NOT_RECOGNIZED:
            raise
        remedy = f"use it with its TPM, or give it up: p11tpm token delete '{printable(token.label)}'"
        return Finding(about, WRONG, error.why, remedy)
    if counts_guesses(token.row.srk_public):
        why = "its keys stop working while the TPM is locked out: the key that they are under is not exempt from that"
        return Finding(about, NOTE, why, "make another token, and new keys in it: p11tpm init --label NEW")
    failures = token.tpm.tries[CKU.USER].failures()
    if failures:
        limit = machine.config.pin_tries
        return Finding(about, NOTE, f"{failures} of {limit} wrong PINs counted", "find the program that has an old PIN")
    return Finding(about, OK, "this TPM has its storage root key")


def _binding(token: Token) -> Iterator[Finding]:
    """Check whether a token that is bound to the machine's state opens now, and what will keep it from that."""
    row = token.row
    if not row.policy:
        return
    label = printable(token.label)
    about = f"token '{label}'"
    states = States.parse(row.policy)
    bound = f"bound to {described(states)}"
    try:
        why = token.why_shut()
    finally:
        token.tpm.release()
    if why:
        yield Finding(about, WRONG, f"{bound}, and does not open now: {why}", way_back(row, states))
    else:
        yield Finding(about, OK, f"{bound}, and opens now")
    if not row.recovery_private:
        text = "bound without a recovery code: after a change of the machine its keys are lost"
        yield Finding(about, NOTE, text, f"p11tpm token bind '{label}' again, without --no-recovery")
    if firmware := [pcr for pcr in states.pcrs if pcr in _OF_FIRMWARE]:
        text = f"bound to PCR {written(firmware)}: an update of the firmware ends that"
        yield Finding(
            about, NOTE, text, "bind to PCR 7, and to a signed PCR 11, instead; or keep the recovery code at hand"
        )
    if len(states.alternatives) > 1:
        text = f"opens in {len(states.alternatives)} states"
        yield Finding(about, NOTE, text, f"after the update, drop the old ones: p11tpm token reseal '{label}'")


def _residents(token: Token) -> Iterator[Finding]:
    """Check whether the TPM has the resident keys; one that it does not have is loaded when it is used."""
    try:
        for record in token.tpm.residents.all():
            label = as_text(record.attributes.get(CKA.LABEL, b""))
            about = f"key '{label}' of token '{printable(token.label)}'"
            if token.tpm.residents.is_there(record):
                yield Finding(about, OK, f"resident at {record.resident:#x}")
            else:
                remedy = f"p11tpm key resident '{label}'"
                yield Finding(about, NOTE, f"no longer resident at {record.resident:#x}; works, but slower", remedy)
    finally:
        token.tpm.release()


def _strays(tokens: list[Token]) -> Iterator[Finding]:
    """Search for resident keys that the store does not know to be there, and that nobody may miss."""
    if not tokens:
        return
    rows = [token.row for token in tokens]
    try:
        strays = tokens[0].tpm.residents.strays([Srk(row.srk_handle, row.srk_public) for row in rows])
    finally:
        tokens[0].tpm.release()
    for handle, key in strays.items():
        if key is None:
            text = f"{handle:#x} is of no key of this store: another store has it, or it was left behind"
            yield Finding("resident key", NOTE, text, f"if no store has it: tpm2_evictcontrol -C o -c {handle:#x}")
        else:
            label = as_text(key.attributes.get(CKA.LABEL, b""))
            text = f"{handle:#x} is of the key '{label}', whose use it does not serve"
            remedy = f"p11tpm key resident '{label}', or with --undo to free the place"
            yield Finding("resident key", NOTE, text, remedy)
