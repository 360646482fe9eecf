"""Lint of the words in names, comments, messages and documents; part of `make lint`.

Prose (comments, docstrings, strings, documents) has none of the words of PROSE, and names that our
Python code binds have neither those nor NAMES. A number and its noun agree: no "1 jobs", and no
f"{n} jobs" where n may be 1 (service.text.count_of writes both).
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

# Exceptions: (path, word) and the reason.
ALLOWED: dict[tuple[str, str], str] = {}

# They quote the words.
EXEMPT = frozenset({"tools/check_prose.py", "tests/test_check_prose.py"})

PROSE = {
    "told": "reported, notified, logged, returned",
    "tell": "report, notify, log, return",
    "tells": "reports, notifies, logs, returns",
    "nobody": "no user, no process",
    "somebody": "a user",
    "whoever": "the user who",
    "whom": "(rephrase)",
    "so many": "that number of",
    "so much": "that amount of",
    "whole": "all, complete, total",
    "stands": "is",
    "lies": "is",
    "door": "API, permission",
    "doors": "APIs, permissions",
    "hands": "workers; passes, returns",
    "rooms": "packages",
    "for ever": "without limit",
    "photograph": "image, JPEG file",
    "photographs": "images, JPEG files",
    "data set": "dataset",
    "data sets": "datasets",
}
# Complete names only: `one_hot` is fine.
NAMES = {"one": "row, job, item, ...", "each": "row, job, item, ..."}

_NOUNS = (
    "CPUs|GPUs|attempts|batches|blocks|bytes|characters|checkpoints|classes|days|deliveries|"
    "drivers|epochs|errors|events|files|folders|hours|images|issues|iterations|jobs|layers|lines|"
    "minutes|nodes|parameters|pixels|points|processes|rows|runners|searches|seconds|steps|tags|"
    "tokens|trials|values|workers"
)
_PROSE = re.compile(rf"\b({'|'.join(PROSE)})\b", re.IGNORECASE)
_PLURAL_OF_ONE = re.compile(rf"(?<![\d.,/^*-])\b1 ({_NOUNS})\b")
_PLURAL_OF_NUMBER = re.compile(rf"(?<!x)\{{[^{{}}]*\}} ((?:[a-z]*[a-rt-z] )?(?:{_NOUNS}))\b(?!/)")
_WORD_IN_NAME = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
# Markdown's code is Python's or a shell's, and is checked where it is defined.
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_TEXT_SUFFIXES = frozenset({".cfg", ".ini", ".md", ".mako", ".sh", ".toml", ".yaml", ".yml"})
_TEXT_NAMES = frozenset({"Dockerfile", "Makefile"})
# Tests and benchmarks choose the numbers of their messages.
_FREE_PLURALS = ("benchmarks/", "tests/")


@dataclass(frozen=True, order=True)
class Finding:
    path: str
    line: int
    word: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", help="path prefixes; default: all tracked files")
    parsed = parser.parse_args()
    findings = [
        finding
        for path in _tracked_files(tuple(parsed.paths))
        for finding in check(path, (REPOSITORY / path).read_text(encoding="utf-8"))
    ]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


def check(path: str, text: str) -> list[Finding]:
    """What is wrong in the text of one file, in the order of its lines."""
    found = _check_python(path, text) if path.endswith(".py") else _check_text(path, text)
    return sorted({finding for finding in found if (path, finding.word) not in ALLOWED})


def _tracked_files(prefixes: tuple[str, ...]) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    return [
        path
        for path in listed.stdout.splitlines()
        if (Path(path).suffix in {".py", *_TEXT_SUFFIXES} or Path(path).name in _TEXT_NAMES)
        and path not in EXEMPT
        and path.startswith(prefixes or "")
    ]


def _check_text(path: str, text: str) -> Iterator[Finding]:
    if path.endswith(".md"):
        text = _CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)
    for number, line in enumerate(text.splitlines(), start=1):
        yield from _check_prose(path, number, line)


def _check_python(path: str, text: str) -> Iterator[Finding]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in {tokenize.COMMENT, tokenize.STRING}:
            for offset, line in enumerate(token.string.splitlines()):
                yield from _check_prose(path, token.start[0] + offset, line)
    for node in ast.walk(ast.parse(text)):
        for name in _bound_names(node):
            yield from _check_name(path, getattr(node, "lineno", 1), name)
        if not path.startswith(_FREE_PLURALS):
            yield from _check_plurals(path, node)


def _check_prose(path: str, number: int, line: str) -> Iterator[Finding]:
    for match in _PROSE.finditer(line):
        word = match[1].lower()
        yield Finding(path, number, word, f"avoid {match[1]!r}; say {PROSE[word]}")
    for match in _PLURAL_OF_ONE.finditer(line):
        yield Finding(path, number, match[0], f"{match[0]!r}: the noun is singular")


def _bound_names(node: ast.AST) -> Iterator[str]:
    """Names that this node defines: of functions, classes, arguments, variables, attributes."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
            yield name
        case ast.Attribute(attr=name, ctx=ast.Store()):
            yield name
        case ast.alias(asname=str(name)):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name


def _check_name(path: str, number: int, name: str) -> Iterator[Finding]:
    if name in NAMES:
        yield Finding(path, number, name, f"rename {name!r}; say {NAMES[name]}")
    for word in _WORD_IN_NAME.findall(name):
        if word.lower() in PROSE:
            yield Finding(path, number, word.lower(), f"rename {name!r}; say {PROSE[word.lower()]}")


def _check_plurals(path: str, node: ast.AST) -> Iterator[Finding]:
    """A number in a template before a plural noun: an f-string, or a string for str.format."""
    if isinstance(node, ast.JoinedStr):
        template = "".join(map(_template_part, node.values))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        template = node.value
    else:
        return
    for match in _PLURAL_OF_NUMBER.finditer(template):
        message = f"{match[0]!r}: the number may be 1; use count_of(number, noun)"
        yield Finding(path, node.lineno, match[1], message)


def _template_part(part: ast.expr) -> str:
    match part:
        case ast.Constant(value=text):
            return str(text)
        case ast.FormattedValue(value=ast.Name(id=name) | ast.Attribute(attr=name)):
            # The author of a constant knows that it is not 1.
            return "2" if name.isupper() else "{}"
        case _:
            return "{}"


if __name__ == "__main__":
    sys.exit(main())
