"""Documents say what the code does: generated pages, examples, commands, settings, links, words."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

import service.__main__
import workers.__main__
import workers.training.__main__
from resnetd.cli import app as cli
from service.errors import ApiUnavailable, Refused, ResnetdError, Unavailable
from service.scheduling.queue_status import WaitReason
from service.settings import Settings
from service.specs.job_spec import parse_job_spec
from service.specs.search_spec import parse_search_spec
from service.states import Reason
from tools import generate_reference
from tools.check_prose import REPOSITORY

DOCS = REPOSITORY / "docs"
EXAMPLES = REPOSITORY / "examples"
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))
PAGES = sorted([*DOCS.rglob("*.md"), *REPOSITORY.glob("*.md"), REPOSITORY / "client" / "README.md"])
# Variables that are not fields of Settings: of the client, the secrets, benchmarks, scripts.
_OTHER_VARIABLES = {
    "RESNETD_URL",
    "RESNETD_TOKEN",
    "RESNETD_DEBUG",
    "RESNETD_SECRETS_DIR",
    "RESNETD_BENCH_IMAGES",
    "RESNETD_HOME",
}
_PARSERS = {
    "resnetd-server": service.__main__.make_parser,
    "resnetd-worker": workers.__main__.make_parser,
    "workers.training": workers.training.__main__.make_parser,
}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_JSON_ARGUMENT = re.compile(r"'(\{.*?\})'", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PROMISE = re.compile(r"^\| (?P<promise>.+) \| (?P<tests>`tests/.+) \|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/.]+?\.py)::(\w+)`")

GUARANTEES = (DOCS / "explanation" / "guarantees.md").read_text()
PROMISES = [(row["promise"], row["tests"]) for row in _PROMISE.finditer(GUARANTEES)]


def _name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def _blocks(language: str) -> list[Any]:
    return [
        pytest.param(text, id=f"{_name(page)}-{number}")
        for page in PAGES
        for number, (kind, text) in enumerate(_FENCE.findall(page.read_text()))
        if kind == language
    ]


def test_generated_pages_are_current() -> None:
    pages = generate_reference.make_pages()
    written = {name: (generate_reference.REFERENCE / name).read_text() for name in pages}
    assert written == pages, "run `make docs`"
    assert generate_reference.SPEC_HELP.read_text() == generate_reference.make_spec_help()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_relative_links_lead_to_files(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    targets = {link: page.parent / link.split("#")[0] for link in links if link[0] != "#"}
    assert [link for link, target in targets.items() if not target.exists()] == []


def test_the_index_names_each_page() -> None:
    links = {DOCS / link for link in _LINK.findall((DOCS / "index.md").read_text())}
    pages = {page for page in DOCS.rglob("*.md") if page.parent != DOCS / "decisions"}
    assert pages - links == {DOCS / "index.md"}


def test_example_notebooks_are_kept_without_outputs() -> None:
    notebooks = {path.name: json.loads(path.read_text()) for path in EXAMPLES.glob("*.ipynb")}
    assert len(notebooks) == 3
    for name, notebook in notebooks.items():
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells), name


@pytest.mark.parametrize("text", _blocks("json"))
def test_specs_in_examples_are_valid(text: str) -> None:
    _check_spec(json.loads(text))


@pytest.mark.parametrize("text", _blocks("sh"))
def test_commands_in_examples_exist(text: str) -> None:
    for argument in _JSON_ARGUMENT.findall(text):
        _check_spec(json.loads(argument))
    for words in _commands(text):
        _check_command(words)


@pytest.mark.parametrize("text", _blocks("python"))
def test_python_in_examples_compiles(text: str) -> None:
    compile(text, "example", "exec")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_in_sentences_exist(page: Path) -> None:
    for text in re.findall(r"`((?:resnetd|make) [a-z][^`]*)`", page.read_text()):
        for words in _commands(text):
            _check_command(words)


def test_all_codes_are_explained() -> None:
    operating = (DOCS / "how-to" / "operate-and-troubleshoot.md").read_text()
    assert [code for code in [*Reason, *WaitReason] if f"`{code}`" not in operating] == []
    http = (DOCS / "reference" / "http.md").read_text()
    kinds = _subclasses(Refused, Unavailable) - {Refused, ApiUnavailable}
    assert [kind.code for kind in kinds if f"`{kind.code}`" not in http] == []


def _subclasses(*kinds: type[ResnetdError]) -> set[type[ResnetdError]]:
    return {*kinds, *(found for kind in kinds for found in _subclasses(*kind.__subclasses__()))}


def _check_spec(document: Any) -> None:
    if isinstance(document, dict) and "space" in document:
        parse_search_spec(document)
    elif isinstance(document, dict) and {"depth", "dataset"} <= document.keys():
        parse_job_spec(document)


def _commands(text: str) -> Iterator[list[str]]:
    """The words of each simple command of a shell script."""
    joined = re.sub(r"(^|\s)#.*", "", text.replace("\\\n", " "))
    lexer = shlex.shlex(joined, posix=True, punctuation_chars="|;&<>\n")
    lexer.whitespace, lexer.commenters = " \t", ""
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("|;&\n"):
            yield words
            words = []
        else:
            words.append(word)
    yield words


def _check_command(words: list[str]) -> None:
    program = words[0].rsplit("/", 1)[-1] if words else ""
    if program == "resnetd":
        _check_client_command(words[1:])
    elif program == "make":
        targets = re.findall(r"^([\w-]+%?):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        for word in words[1:]:
            assert "=" in word or word in targets or word.startswith("bench-"), words
    elif program == "python" and words[1:3] == ["-m", "workers.training"]:
        if words[3:4] == ["detect"]:
            workers.training.__main__.make_detect_parser().parse_args(words[4:])
        elif words[3:4] not in (["stats"], ["convert"]):
            _PARSERS["workers.training"]().parse_args(words[3:])
    elif program in _PARSERS:
        _PARSERS[program]().parse_args(words[1:])


def _check_client_command(words: list[str]) -> None:
    command: Any = typer.main.get_command(cli.app)
    while isinstance(command, TyperGroup) and words:
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    options = {option for parameter in command.params for option in parameter.opts}
    for word in words:
        assert not word.startswith("-") or word == "-" or word.split("=")[0] in options, words


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_settings_in_documents_exist(page: Path) -> None:
    named = set(re.findall(r"\bRESNETD_[A-Z_]+[A-Z]\b", page.read_text()))
    settings = {f"RESNETD_{name.upper()}" for name in Settings.model_fields}
    assert named - settings - _OTHER_VARIABLES == set()


def test_the_glossary_defines_each_word_once() -> None:
    glossary = (DOCS / "glossary.md").read_text()
    entries = re.findall(r"^\| \*\*(.+?)\*\*", glossary, re.MULTILINE)
    words = [word for entry in entries for word in entry.split(", ")]
    assert len(words) > 5
    assert sorted({word for word in words if words.count(word) > 1}) == []


def test_decisions_have_distinct_numbers_and_titles() -> None:
    titles = [page.read_text().split("\n")[0] for page in DECISIONS]
    numbers = [int(page.name[:4]) for page in DECISIONS]
    assert [int(title.split(".")[0].removeprefix("# ")) for title in titles] == numbers
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(("promise", "tests"), PROMISES)
def test_each_promise_names_tests_that_exist(promise: str, tests: str) -> None:
    found = _TEST.findall(tests)
    assert len(found) == tests.count("`") // 2, f"{promise!r} names something other than tests"
    for path, name in found:
        source = (REPOSITORY / path).read_text()
        assert f"\ndef {name}(" in source, f"{path} has no test {name}, named for {promise!r}"
