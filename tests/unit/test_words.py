"""Plain English in docstrings, comments, errors, help and documents.

Each rule is a regular expression that finds what readers stumble over, not a grammar: CONTRIBUTING.md has the rules.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    Text = tuple[int, str]  # the number of the first line, and a paragraph

ROOT = Path(__file__).parents[2]
PYTHON = sorted(path for room in ("p11tpm", "csrc", "tests", "tools") for path in (ROOT / room).rglob("*.py"))
C = sorted(path for room in ("csrc", "tests") for path in (ROOT / room).rglob("*.[ch]"))
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "p11tpm").rglob("*.md"), ROOT / "conf.example"]
FILES = {str(path.relative_to(ROOT)): path for path in (*PYTHON, *C, *sorted(DOCUMENTS))}
OWN = "tests/unit/test_words.py"

# A verb that says nothing of what a function does
WEAK = r"(?:Give|Take|Say|Let|Tell|Bring|Do|Go|Come|Look|Make sure)\b"
VERB = r"(?:is|are|was|were|has|have|had|can|cannot|may|must|does|do|did|will|would|could|should|needs?|wants?|comes?)"
CANNOT, IS_NOT, WHO, WHAT, DOCSTRING = (
    "write 'cannot'",
    "write 'is not a'",
    "write 'anyone who'",
    "name the subject instead of 'what'",
    "begin with what the function does",
)
NOT_IN_TESTS = {WHAT, DOCSTRING}  # of the package's own tests, whose names and fixtures are words of their own
RULES = {
    CANNOT: re.compile(r"\bcan not\b", re.IGNORECASE),
    IS_NOT: re.compile(
        r"(?<!\bthere )(?<!\bThere )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b|fewer\b|later\b|\w+er than\b)\w"
    ),
    WHO: re.compile(rf"(?:^|(?<=[.:;] ))[Ww]ho(?:ever)? (?:\w+ ){{0,3}}?{VERB}\b[^?]*?(?:[.:;]|$)"),
    WHAT: re.compile(rf"(?:^|(?<=[.:;] ))[Ww]hat {VERB}\b[^?.:;]*(?:[.:;]|$)"),
}


def paragraphs(lines: Iterator[tuple[int, str]]) -> Iterator[Text]:
    """Join lines that follow each other to paragraphs; an empty one ends a paragraph, and so does a gap."""
    start, last = 0, 0
    parts: list[str] = []
    for number, line in lines:
        text = line.strip()
        if parts and (not text or number > last + 1 or text.startswith(("* ", "- ", "|", "#", "<"))):
            yield start, " ".join(parts)
            parts = []
        if text:
            start = start if parts else number
            parts.append(text)
        last = number
    if parts:
        yield start, " ".join(parts)


def of_python(source: str) -> Iterator[Text]:
    """Docstrings, other texts of more than one word, and comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            words = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
            yield node.lineno, words
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from paragraphs((number, line) for number, line in enumerate(node.value.split("\n"), node.lineno))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = ((one.start[0], one.string.lstrip("#")) for one in tokens if one.type == tokenize.COMMENT)
    yield from paragraphs(comments)


def of_c(source: str) -> Iterator[Text]:
    """Comments and texts."""
    for found in re.finditer(r'/\*(.*?)\*/|"((?:[^"\\\n]|\\.)* (?:[^"\\\n]|\\.)*)"', source, re.DOTALL):
        number = source.count("\n", 0, found.start()) + 1
        lines = (found[1] or found[2]).split("\n")
        yield from paragraphs((at, line.strip().removeprefix("*")) for at, line in enumerate(lines, number))


def of_document(source: str) -> Iterator[Text]:
    """Paragraphs, without blocks of code, spans of code and the tables' fences."""
    plain = re.sub(r"^```.*?^```$", lambda block: re.sub(r".", "", block[0]), source, flags=re.MULTILINE | re.DOTALL)
    plain = re.sub(r"`[^`\n]*`", "X", plain)
    lines = (
        (number, line.removeprefix("# ") if "=" in line else line) for number, line in enumerate(plain.split("\n"), 1)
    )
    for number, text in paragraphs(lines):
        yield from ((number, cell.strip()) for cell in (text.split("|") if text.startswith("|") else [text]))


def docstrings(source: str) -> Iterator[Text]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.lineno + 1, text


def texts(name: str, source: str) -> Iterator[Text]:
    if name.endswith(".py"):
        return of_python(source)
    return of_c(source) if name.endswith((".c", ".h")) else of_document(source)


def faults(name: str, source: str) -> list[str]:
    """What is against the rules in a file, each with its line."""
    found = {
        (number, rule, match[0])
        for number, text in texts(name, source)
        for rule, pattern in RULES.items()
        for match in pattern.finditer(text)
    }
    if name.endswith(".py"):
        found |= {(number, DOCSTRING, text) for number, text in docstrings(source) if re.match(WEAK, text)}
    spared = NOT_IN_TESTS if name.startswith("tests/") else set()
    return [f"{name}:{number}: {rule}: {text[:60]!r}" for number, rule, text in sorted(found) if rule not in spared]


@pytest.mark.parametrize("name", sorted(FILES.keys() - {OWN}))
def test_the_words_are_plain(name: str) -> None:
    assert faults(name, FILES[name].read_text()) == []


PYTHON_SAMPLE = '''
def work():
    """Give the key."""
    # Who can read the store can use the keys.
    raise Error(f"{path}: it is no regular file, and can not be used")


def others():
    """Return the key, if there is no other. Who may use it? What it is worth is not said."""
    return "a key is no longer used", "gives; what is known is kept"
'''


def test_the_check_sees_what_it_looks_for() -> None:
    lines = [(fault.split(":")[1], fault.split(": ")[1]) for fault in faults("a.py", PYTHON_SAMPLE)]
    assert lines == [("3", DOCSTRING), ("4", WHO), ("5", CANNOT), ("5", IS_NOT), ("10", WHAT)]
    assert faults("tests/a.py", PYTHON_SAMPLE) == [
        line.replace("a.py", "tests/a.py") for line in faults("a.py", PYTHON_SAMPLE)[1:4]
    ]
    assert len(faults("a.c", '/* Who is here\n * can not go. */ complain("it is no module");')) == 3
    assert len(faults("a.md", "| what is left | `it can not` |\n\n```\ncan not\n```\n\nA root is no\nprotection.")) == 2
