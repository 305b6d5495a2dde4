"""Curves and hashes: one table of each, which is right, and no other beside it."""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from p11tpm.algorithm import CURVES, HASHES
from p11tpm.crypto import point
from p11tpm.crypto.public import ec_curve, hash_algorithm

PACKAGE = Path(__file__).parents[2] / "p11tpm"
THE_TABLES = PACKAGE / "algorithm.py"
FILES = sorted(set(PACKAGE.rglob("*.py")) - {THE_TABLES})
MANY = 3  # names of curves, or of hashes: as many make a table

CURVE = re.compile(r"(?:P|SECP)-?(192|224|256|384|521)(?:R1)?", re.IGNORECASE)
HASH = re.compile(r"(MD5|SHA[-_]?1|SHA[-_]?3[-_](?:224|256|384|512)|SHA[-_]?(?:224|256|384|512))", re.IGNORECASE)
PART_OF_A_NAME = re.compile(rf"(?:[A-Z0-9]+_)*?{HASH.pattern}(?:_[A-Z0-9_]+)?", re.IGNORECASE)  # SHA256_RSA_PKCS


def names_in_displays(source: str) -> tuple[set[str], set[str]]:
    """Curves and hashes that the literal tuples, lists, sets and mappings of a file name, as text or as constants."""
    curves, hashes = set(), set()
    displays = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Dict | ast.List | ast.Set | ast.Tuple)
    ]
    for node in (node for display in displays for node in ast.walk(display)):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        constant = node.attr if isinstance(node, ast.Attribute) else ""
        curve = CURVE.fullmatch(text or constant)
        hash_ = HASH.fullmatch(text) or PART_OF_A_NAME.fullmatch(constant)
        curves |= {curve[1]} if curve else set()
        hashes |= {re.sub("[-_]", "", hash_[1]).lower()} if hash_ else set()
    return curves, hashes


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_has_a_table_of_its_own(path):
    """What stands twice drifts apart: derive it from p11tpm/algorithm.py."""
    for names in names_in_displays(path.read_text()):
        assert len(names) < MANY


def test_tables_are_seen():
    curves, hashes = names_in_displays(THE_TABLES.read_text())
    assert (len(curves), len(hashes)) == (len(CURVES), len(HASHES))
    source = """
curves = {"p192": ec.SECP192R1, "P-224": 1}
curves |= {ec.SECP384R1: 2}
hashes = [CKM.SHA_1_HMAC_GENERAL, CKM.ECDSA_SHA224, CKG.MGF1_SHA3_256]
hashes += ("md5", "sha256", "_sha512", "the sha384 of something")
"""
    assert names_in_displays(source) == ({"192", "224", "384"}, {"sha1", "sha224", "sha3256", "md5", "sha256"})


@pytest.mark.parametrize("name", CURVES)
def test_curves_are_those_of_another_implementation(name):
    """The generator and its opposite, order - 1 times it, have the same x."""
    curve, named = CURVES[name], ec_curve(name)
    assert curve.bits == named.key_size == curve.order.bit_length()
    one, last = (ec.derive_private_key(secret, named).public_key().public_numbers() for secret in (1, curve.order - 1))
    assert one.x == last.x
    assert one.y + last.y == curve.prime
    octets = b"\x04" + one.x.to_bytes(curve.size, "big") + one.y.to_bytes(curve.size, "big")
    assert point.coordinates(name, octets) == (one.x, one.y)


@pytest.mark.parametrize("name", HASHES)
def test_hashes_are_those_of_other_implementations(name):
    hash_, reference = HASHES[name], hashlib.new(name)
    assert (hash_.size, hash_.block) == (reference.digest_size, reference.block_size)
    assert hash_algorithm(name).digest_size == hash_.size
    assert not hash_.digest_info or hash_.digest_info[-1] == hash_.size
