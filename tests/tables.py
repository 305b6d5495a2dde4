"""The README's tables of functions, mechanisms and object classes, and its recipes, made of the code's own.

    .venv/bin/python tests/tables.py

writes them anew into README.md, each between two comments. Nothing here is a list of what there is: that comes from the
header of PKCS#11, from the functions in p11tpm/entry, and from the tables of mechanisms and attributes.
"""

from __future__ import annotations

import ast
import re
import shlex
import sys
import tempfile
from pathlib import Path

from p11tpm import attribute
from p11tpm.algorithm import CURVES
from p11tpm.ck import CKF, CKK, CKO
from p11tpm.cli import recipe
from p11tpm.keys import create
from p11tpm.mechanism import (
    AES_SIZES,
    DH_SIZES,
    DSA_SIZES,
    HMAC_KEYS,
    LONGEST_SECRET,
    MECHANISMS,
    RSA_SIZES,
    SECRETS,
)
from p11tpm.tpm.codec import HASHES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"

DOES = {  # flag: what the README calls it
    CKF.GENERATE: "generate",
    CKF.GENERATE_KEY_PAIR: "generate",
    CKF.SIGN: "sign",
    CKF.SIGN_RECOVER: "sign with recovery",
    CKF.VERIFY: "verify",
    CKF.VERIFY_RECOVER: "verify with recovery",
    CKF.ENCRYPT: "encrypt",
    CKF.DECRYPT: "decrypt",
    CKF.WRAP: "wrap",
    CKF.UNWRAP: "unwrap",
    CKF.DERIVE: "derive",
    CKF.DIGEST: "digest",
}
# What needs a private key, and so the TPM; test_every_mechanism looks at the wire for it
BY_PRIVATE_KEYS = CKF.GENERATE_KEY_PAIR | CKF.SIGN | CKF.SIGN_RECOVER | CKF.DECRYPT | CKF.UNWRAP | CKF.DERIVE
EVERYTHING = {"hmac", *HASHES.values(), *(f"aes{8 * size}" for size in AES_SIZES)}  # what a TPM can do beside that
# Codes that any function may answer to a call that makes no sense
ORDINARY = {"ARGUMENTS_BAD", "OPERATION_NOT_INITIALIZED"}


def table(*rows):
    head, *others = ("| " + " | ".join(cells) + " |" for cells in rows)
    return [head, "|---" * len(rows[0]) + "|", *others, ""]


def code(words):
    return ", ".join(f"`{word}`" for word in words)


# -- functions


def standard():
    """Return the functions of 2.40, those that 3.0 added, and those that are in C only."""
    sys.path.insert(0, str(ROOT / "csrc"))
    import abi
    import build

    with tempfile.TemporaryDirectory() as directory:
        include = shlex.split(build.run("pkg-config", "--cflags", "p11-kit-1"))
        read = abi.Abi(*build.headers(include, Path(directory)))
    return read.order, [name for name in read.order_3_0 if name not in read.order], abi.WITHOUT_PYTHON


def entries():
    """Return what is in p11tpm/entry: name of a function, and its codes if it cannot end well."""
    for path in sorted((ROOT / "p11tpm" / "entry").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("C_"):
                assert [ast.unparse(mark) for mark in node.decorator_list] == ["entry"], node.name
                never = isinstance(node.body[-1], ast.Raise)
                codes = re.findall(r"raise Error\(CKR\.(\w+)", ast.unparse(node))
                yield node.name, [f"CKR_{word}" for word in codes if word not in ORDINARY] if never else []


def functions():
    old, new, in_c = standard()
    answers = dict(entries())
    there = [name for name in (*old, *new) if name in {*answers, *in_c}]
    works = [name for name in there if not answers.get(name)]
    missing = [name for name in (*old, *new) if name not in there]
    assert {*answers, *in_c} <= {*old, *new}
    refusals: dict[str, list[str]] = {}
    for name in there:
        if name not in works:
            refused = "yes, but nothing ever happens" if "CKR_NO_EVENT" in answers[name] else "no"
            refusals.setdefault(f"{refused}: {code(answers[name])}", []).append(name)
    messages = [name for name in missing if "Message" in name]
    rest = [name for name in missing if name not in messages]
    in_words = [f"of 3.0: the {len(messages)} for messages, {code(messages[:2])} and so on"] if messages else []
    return table(
        ("function", "supported"),
        (f"all {len(old)} of PKCS#11 2.40 but those below", "yes"),
        (f"of 3.0: {code(name for name in works if name in new)}", "yes"),
        *((code(names), answer) for answer, names in refusals.items()),
        (", ".join([*in_words, *(f"`{name}`" for name in rest)]), "no: `CKR_FUNCTION_NOT_SUPPORTED`"),
    )


# -- mechanisms


def words(flags):
    return ", ".join(dict.fromkeys(word for flag, word in DOES.items() if flags & flag)) or "-"


def several(numbers):
    return ", ".join(map(str, numbers))


KEYS = {  # type of a mechanism's keys: what the README says of them
    CKK.RSA: f"RSA {several(RSA_SIZES)}",
    CKK.EC: several(f"P-{curve.bits}" for curve in CURVES.values()),
    CKK.EC_EDWARDS: "Ed25519, Ed448",
    CKK.DSA: f"DSA {several(DSA_SIZES)}",
    CKK.DH: f"DH {min(DH_SIZES)} to {max(DH_SIZES)}",
    CKK.AES: f"AES {several(8 * size for size in AES_SIZES)}",
    CKK.DES2: "DES2",
    CKK.DES3: "DES3",
    CKK.GENERIC_SECRET: f"generic (1 to {LONGEST_SECRET} bytes)",
    CKK.HKDF: "HKDF",
    **dict.fromkeys(HMAC_KEYS.values(), "HMAC"),
}


def keys(row):
    if row.keys == SECRETS:
        return "any secret key"
    return several(dict.fromkeys(KEYS[one] for one in row.keys)) or "-"


def gathered(names):
    """Write names that differ in their hash or mode only as one: CKM_{SHA256,SHA384}_HMAC."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in names:
        in_hash = re.fullmatch(r"(CKM_|.*?_)(MD5|SHA3_\d+|SHA_?\d+)(|_(?!DATA).*)", name)
        others = re.fullmatch(r"(CKM_AES_|CKM_DES3_|)(.*)()", name)
        before, middle, after = (in_hash or others).groups()
        if not before:
            before, middle = middle, ""
        found.setdefault((before, after), []).append(middle)
    return [
        before + (f"{{{','.join(middles)}}}" if len(middles) > 1 else middles[0]) + after
        for (before, after), middles in found.items()
    ]


def mechanisms():
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in MECHANISMS.values():
        assert not row.does & ~sum(DOES), f"the README has no word for what {row.name} does"
        tpm = row.does if row.in_hardware(EVERYTHING) else 0
        software = row.does
        if row.in_tpm:
            tpm, software = row.does & BY_PRIVATE_KEYS, row.does & ~BY_PRIVATE_KEYS
        groups.setdefault((keys(row), words(tpm), words(software)), []).append(row.name)
    rows = ((code(gathered(names)), kind, tpm, here) for (kind, tpm, here), names in groups.items())
    return table(("mechanisms", "keys", "the TPM does", "software does"), *rows)


# -- objects

# Each kind of objects: the flags of mechanisms that make it, and where the part lies that others must not know, of a
# token object and of a session object
OPEN = ("store", "memory")
IN_TPM = ("store, encrypted by the TPM", "memory, encrypted by the TPM")
OF_PAIRS = (IN_TPM[0], f"{IN_TPM[1]}; as it is if it is extractable")
IN_SOFTWARE = ("store, encrypted under the token's secret", "memory, as it is")
_SECRET = CKF.GENERATE | CKF.DERIVE | CKF.UNWRAP
KINDS = (
    (CKO.DATA, "data: the value of a private one", CKF.DERIVE, IN_SOFTWARE[0], "memory, encrypted in the same way"),
    (CKO.CERTIFICATE, "X.509 certificate", 0, *OPEN),
    (CKO.PUBLIC_KEY, "public key", CKF.GENERATE_KEY_PAIR, *OPEN),
    (CKO.PRIVATE_KEY, "private key: RSA, EC", CKF.GENERATE_KEY_PAIR | CKF.UNWRAP, *OF_PAIRS),
    (CKO.PRIVATE_KEY, "private key: EdDSA, DSA, DH", CKF.GENERATE_KEY_PAIR | CKF.UNWRAP, *IN_SOFTWARE),
    (CKO.SECRET_KEY, "secret key in the TPM: AES, HMAC", _SECRET, IN_TPM[0], f"{IN_TPM[1]}, if it is a copy"),
    (CKO.SECRET_KEY, "any other secret key", _SECRET, *IN_SOFTWARE),
    (CKO.DOMAIN_PARAMETERS, "domain parameters", CKF.GENERATE, *OPEN),
)
PAST = {
    CKF.GENERATE: "generated",
    CKF.GENERATE_KEY_PAIR: "generated",
    CKF.DERIVE: "derived",
    CKF.UNWRAP: "unwrapped",
}


def made(object_class, flags):
    ways = ["created"] if object_class in create._MAKERS else []  # noqa: SLF001 - the table itself
    return several([*ways, *(word for flag, word in PAST.items() if flags & flag), "copied"])


def objects():
    assert {kind[0] for kind in KINDS} == set(attribute.ALL), "the README has no word for a class of objects"
    rows = ((what, made(one, flags), *places) for one, what, flags, *places in KINDS)
    return table(("object", "may be", "as a token object it is in", "as a session object in"), *rows)


# -- recipes

USUAL = {"MODULE": "/usr/local/lib/pkcs11/p11tpm.so", "TOKEN": "p11tpm", "PIN_FILE": recipe.PIN_FILE}


def recipes():
    """Return them as they are for a module that is installed and a token made as the README says."""
    return [line for name in recipe.names() for line in chapter(name)]


def chapter(name):
    told = recipe.Recipe(name, USUAL)
    title = f"<details><summary><b>{told.title}</b>: <code>p11tpm recipe {name}</code></summary>"
    return [title, *told.body.rstrip().split("\n"), "", "</details>", ""]


PARTS = {"mechanisms": mechanisms, "objects": objects, "functions": functions, "recipes": recipes}


def renewed(readme):
    """Return the README with its tables made anew, each between two comments."""
    for word, make in PARTS.items():
        begin, end = f"<!-- {word}: python tests/tables.py -->", f"<!-- end of {word} -->"
        before, rest = readme.split(begin)
        readme = "\n".join([before + begin, "", *make(), end + rest.split(end)[1]])
    return readme


if __name__ == "__main__":
    README.write_text(renewed(README.read_text()))
