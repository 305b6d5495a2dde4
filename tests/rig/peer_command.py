"""The commands of recipes, done with tpm2-pkcs11: a stand-in for `p11tpm`, so that one test drives both products.

Run by a script named p11tpm that rig.PeerUser makes. PINs come from files, or are asked for as `p11tpm` asks.
"""

from __future__ import annotations

import argparse
import base64
import getpass
import json
import os
import secrets
import subprocess
from pathlib import Path

import pkcs11
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11.util.ec import encode_ec_public_key
from pkcs11.util.rsa import encode_rsa_public_key

from p11tpm.cli.recipe import PIN_FILE, Recipe

MODULE = str(next(Path("/usr/lib").glob("*/libtpm2_pkcs11.so*")))
LABEL = "p11tpm"
ALGORITHMS = {"p256": "EC:prime256v1", "p384": "EC:secp384r1", "p521": "EC:secp521r1"}
ENCODERS = {pkcs11.KeyType.RSA: encode_rsa_public_key, pkcs11.KeyType.EC: encode_ec_public_key}


def tool(*arguments: str, **pins: str) -> str:
    env = {**os.environ, **pins}
    command = ["/usr/bin/pkcs11-tool", "--module", MODULE, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True).stdout


def pin_of(given: argparse.Namespace) -> str:
    return Path(given.pin_file).read_text().strip() if given.pin_file else getpass.getpass("PIN: ")


def create(given: argparse.Namespace) -> None:
    so_pin = Path(given.so_pin_file).read_text().strip() if given.so_pin_file else secrets.token_hex(8)
    pins = {"SO_PIN": so_pin, "USER_PIN": pin_of(given)}
    tool("--init-token", "--slot-index", "0", "--label", given.label, "--so-pin", "env:SO_PIN", **pins)
    named = ("--token-label", given.label)
    so = ("--login", "--login-type", "so", "--so-pin", "env:SO_PIN")
    tool("--init-pin", *named, *so, "--pin", "env:USER_PIN", **pins)


def generate(given: argparse.Namespace) -> None:
    kind = ALGORITHMS.get(given.algorithm) or f"rsa:{given.algorithm.removeprefix('rsa')}"
    new = ("--key-type", kind, "--id", secrets.token_hex(8), "--label", given.label)
    named = ("--token-label", given.token) if given.token else ()
    tool("--login", *named, "--pin", "env:USER_PIN", "--keypairgen", *new, USER_PIN=pin_of(given))


def init(given: argparse.Namespace) -> None:
    create(given)
    generate(argparse.Namespace(**{**vars(given), "token": given.label, "label": given.key_label}))


def keys() -> list[tuple[str, bytes, bytes]]:
    """Label, id and SubjectPublicKeyInfo of the public keys of all tokens."""
    found = []
    for token in pkcs11.lib(MODULE).get_tokens():
        with token.open() as session:
            for key in session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY}):
                encoded = ENCODERS[key.key_type](key)
                pem = b"RSA PUBLIC KEY" if key.key_type == pkcs11.KeyType.RSA else b"PUBLIC KEY"
                found.append((key[pkcs11.Attribute.LABEL], key[pkcs11.Attribute.ID], spki(encoded, pem)))
    return found


def spki(encoded: bytes, pem: bytes) -> bytes:
    text = b"-----BEGIN %s-----\n%s-----END %s-----\n" % (pem, base64.encodebytes(encoded), pem)
    key = serialization.load_pem_public_key(text)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public(given: argparse.Namespace) -> None:
    [info] = [one[2] for one in keys() if one[0] == given.key]
    key = serialization.load_der_public_key(info)
    if given.format == "pem":
        print(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), end="")
    else:
        print(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(), given.key)


def import_certificate(given: argparse.Namespace) -> None:
    certificate = x509.load_pem_x509_certificate(Path(given.file).read_bytes())
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    [(label, id_, _)] = [one for one in keys() if one[2] == info]
    file = Path(given.file).with_suffix(".der.peer")
    file.write_bytes(certificate.public_bytes(Encoding.DER))
    pin = os.environ["PEER_PIN"]  # tpm2-pkcs11 wants a login for a certificate, p11tpm does not
    new = ("--write-object", str(file), "--type", "cert", "--id", id_.hex(), "--label", given.label or label)
    tool("--login", "--pin", "env:USER_PIN", *new, USER_PIN=pin)


def list_keys(given: argparse.Namespace) -> None:
    found = [(label, id_.hex()) for label, id_, _ in keys()]
    if given.json:
        print(json.dumps([{"label": label, "id": id_} for label, id_ in found]))
    else:
        print("\n".join(f"{label}  ?  id {id_}" for label, id_ in found))


def delete_certificate(given: argparse.Namespace) -> None:
    old = ("--delete-object", "--type", "cert", "--label", given.cert)
    tool("--login", "--pin", "env:USER_PIN", *old, USER_PIN=os.environ["PEER_PIN"])


def recipe(given: argparse.Namespace) -> None:
    told = Recipe(given.name, {"MODULE": MODULE, "TOKEN": LABEL, "PIN_FILE": given.pin_file or PIN_FILE})
    print(json.dumps([dict(zip(("about", "language", "text"), block, strict=True)) for block in told.blocks]))


def options(parser: argparse.ArgumentParser, *names: str, **defaults: str) -> None:
    for name in names:
        parser.add_argument(f"--{name}", default=defaults.get(name.replace("-", "_")))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="p11tpm")
    nouns = parser.add_subparsers(required=True)
    usual = {"label": LABEL, "algorithm": "p256", "key_label": "ssh", "format": "openssh"}

    def command(words: str, does: object, *names: str) -> argparse.ArgumentParser:
        *groups, verb = words.split()
        place = nouns
        for group in groups:
            place = made.setdefault(group, None) or nouns.add_parser(group).add_subparsers(required=True)
            made[group] = place
        found = place.add_parser(verb)
        found.set_defaults(does=does)
        options(found, *names, **usual)
        return found

    made: dict[str, argparse._SubParsersAction[argparse.ArgumentParser] | None] = {}
    command("init", init, "label", "key-label", "algorithm", "pin-file", "so-pin-file")
    command("token create", create, "label", "pin-file", "so-pin-file")
    command("key generate", generate, "label", "algorithm", "token", "pin-file")
    command("key public", public, "format").add_argument("key")
    imported = command("cert import", import_certificate, "token")
    imported.add_argument("file")
    imported.add_argument("--label")
    command("key list", list_keys).add_argument("--json", action="store_true")
    deleted = command("cert delete", delete_certificate)
    deleted.add_argument("--yes", action="store_true")
    deleted.add_argument("cert")
    command("module", lambda _: print(MODULE))
    told = command("recipe", recipe, "pin-file")
    told.add_argument("name")
    told.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    given.does(given)
