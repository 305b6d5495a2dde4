"""PKCS#11 URIs: what `p11tpm` lists is what p11tool of GnuTLS makes of the same objects, and finds."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import pytest

import rig
from clients.test_openssl import CONFIG, ENGINE
from rig.program import said

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LABEL = "läuft: 100% & ~ein/Wort?"  # 26 bytes
KEYS = {"ssh": "p256", 'my key; "1"': "rsa2048"}


def attributes(uri: str) -> dict[str, bytes]:
    """The attributes of a URI, decoded: which characters are encoded is everybody's own choice."""
    scheme, _, rest = uri.partition(":")
    assert scheme == "pkcs11"
    return {name: unquote_to_bytes(value) for name, _, value in (part.partition("=") for part in rest.split(";"))}


class Listing:
    """A user with two tokens, of which programs are shown the second; p11tool, and what `p11tpm` lists."""

    def __init__(self, tpm: rig.Tabrmd, directory: Path) -> None:
        self.user = user = rig.User(tpm, directory)
        self.directory = directory
        user.init()
        user.create_token(LABEL)
        rig.write_secret(directory / "p11tpm.conf", f"token = {LABEL}\npin-file = {user.pin_file}\n")
        for label, algorithm in KEYS.items():
            user.generate(algorithm, label)
        self.engine = {**user.env, "OPENSSL_CONF": str(directory / "openssl.cnf")}
        (directory / "openssl.cnf").write_text(CONFIG.format(engine=ENGINE, module=user.module, more=""))
        for label in KEYS:
            self.certify(label)

    def listed(self, noun: str) -> list[str]:
        return [one["uri"] for one in json.loads(self.user.p11tpm(noun, "list", "--json"))]

    def uri(self, label: str) -> str:
        keys = json.loads(self.user.p11tpm("key", "list", "--json"))
        return next(str(key["uri"]) for key in keys if key["label"] == label)

    def certify(self, label: str) -> None:
        """A certificate for a key, signed by itself: openssl finds it by its full URI."""
        path = self.directory / "certificate"
        key = ("-engine", "pkcs11", "-keyform", "engine", "-key", self.uri(label))
        said(["/usr/bin/openssl", "req", "-x509", *key, "-subj", "/CN=it", "-out", path], self.engine, self.directory)
        printed = self.user.p11tpm("cert", "import", path).strip()
        assert printed in self.listed("cert")

    def p11tool(self, *arguments: str) -> list[dict[str, bytes]]:
        """The URIs that p11tool prints."""
        told = said(["/usr/bin/p11tool", "--provider", self.user.module, *arguments], self.user.env, self.directory)
        return [attributes(uri) for uri in re.findall(r"URL: (\S+)", told)]


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listing]:
    with rig.Tabrmd(max_tries=32) as tpm:
        yield Listing(tpm, tmp_path_factory.mktemp("listing"))


def test_tokens(listing: Listing) -> None:
    hidden, shown = (attributes(uri) for uri in listing.listed("token"))
    assert listing.p11tool("--list-tokens") == [shown]
    assert shown["token"] == LABEL.encode()
    assert set(shown) == {"model", "manufacturer", "serial", "token"}
    assert hidden["serial"] != shown["serial"]


def test_objects(listing: Listing) -> None:
    (token,) = (uri for uri in listing.listed("token") if attributes(uri)["token"] == LABEL.encode())
    theirs = listing.p11tool("--login", "--list-all", token)
    ours = [attributes(uri) for noun in ("key", "cert") for uri in listing.listed(noun)]
    assert len(ours) == 2 * len(KEYS)
    assert all(one in theirs for one in ours)
    publics = [{**one, "type": b"public"} for one in ours if one["type"] == b"private"]
    assert sorted(theirs, key=str) == sorted(ours + publics, key=str)


@pytest.mark.parametrize("noun", ["key", "cert"])
def test_found_by_p11tool(listing: Listing, noun: str) -> None:
    for uri in listing.listed(noun):
        assert listing.p11tool("--login", "--info", uri) == [attributes(uri)]


@pytest.mark.parametrize("label", KEYS)
def test_signed_with_by_p11tool(listing: Listing, label: str) -> None:
    assert listing.p11tool("--login", "--test-sign", listing.uri(label)) == []


def test_of_another_token_nothing_is_found(listing: Listing) -> None:
    hidden, shown = listing.listed("token")
    uri = listing.uri("ssh").replace(shown, hidden)
    command = ["/usr/bin/p11tool", "--provider", listing.user.module, "--login", "--info", uri]
    said(command, listing.user.env, listing.directory, refused="No matching objects found")
