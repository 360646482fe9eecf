"""What the documents name is there."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
OPERATIONS = REPOSITORY / "docs" / "operations.md"
_PROMISE = re.compile(r"^\| (?P<promise>.+) \| (?P<tests>`tests/.+) \|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/.]+?\.py)::(\w+)`")

PROMISES = [(each["promise"], each["tests"]) for each in _PROMISE.finditer(OPERATIONS.read_text())]


def test_operations_make_promises() -> None:
    assert len(PROMISES) > 20


@pytest.mark.parametrize(("promise", "tests"), PROMISES)
def test_each_promise_names_tests_that_exist(promise: str, tests: str) -> None:
    named = _TEST.findall(tests)
    assert len(named) == tests.count("`") // 2, f"{promise!r} names something else than tests"
    for path, name in named:
        written = (REPOSITORY / path).read_text()
        assert f"\ndef {name}(" in written, f"{path} has no {name}, which shall hold {promise!r}"
