"""Documents: tests that they name exist, all settings are listed, words are defined once."""

import re
from pathlib import Path

import pytest

from service.settings import Settings

REPOSITORY = Path(__file__).parents[1]
OPERATIONS = REPOSITORY / "docs" / "operations.md"
GLOSSARY = REPOSITORY / "docs" / "glossary.md"
SETTINGS = REPOSITORY / "docs" / "settings.md"
_PROMISE = re.compile(r"^\| (?P<promise>.+) \| (?P<tests>`tests/.+) \|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/.]+?\.py)::(\w+)`")

PROMISES = [(row["promise"], row["tests"]) for row in _PROMISE.finditer(OPERATIONS.read_text())]


def test_the_operations_page_makes_promises() -> None:
    assert len(PROMISES) > 20


@pytest.mark.parametrize(("promise", "tests"), PROMISES)
def test_each_promise_names_tests_that_exist(promise: str, tests: str) -> None:
    found = _TEST.findall(tests)
    assert len(found) == tests.count("`") // 2, f"{promise!r} names something other than tests"
    for path, name in found:
        source = (REPOSITORY / path).read_text()
        assert f"\ndef {name}(" in source, f"{path} has no test {name}, named for {promise!r}"


def test_the_glossary_defines_each_word_once() -> None:
    entries = re.findall(r"^\| \*\*(.+?)\*\*", GLOSSARY.read_text(), re.MULTILINE)
    words = [word for entry in entries for word in entry.split(", ")]
    assert len(words) > 5
    assert sorted({word for word in words if words.count(word) > 1}) == []


def test_the_settings_page_lists_exactly_the_settings() -> None:
    rows = re.findall(r"^\| (`RESNETD_.+?) \|", SETTINGS.read_text(), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed == {f"RESNETD_{name.upper()}" for name in Settings.model_fields}
