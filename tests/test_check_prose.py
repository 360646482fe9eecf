"""The prose lint finds words and plurals in our own text only."""

import pytest

from tools.check_prose import check


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("service/a.py", "# nobody waits\n"),
        ("service/a.py", '"""The whole queue."""\n'),
        ("service/a.py", 'raise ValueError("the lock stands")\n'),
        ("service/a.py", "def is_whole() -> bool: ...\n"),
        ("service/a.py", "for each in rows: ...\n"),
        ("service/a.py", "def f(*, one: int) -> None: ...\n"),
        ("docs/a.md", "Somebody waits.\n"),
        ("deploy/Dockerfile", "# so many layers\n"),
    ],
)
def test_avoided_words_are_found(path: str, text: str) -> None:
    assert len(check(path, text)) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("service/a.py", "position = file.tell()\n"),
        ("service/a.py", "one_hot = 1\n"),
        ("docs/a.md", "The name `whole` in code.\n"),
    ],
)
def test_names_of_third_parties_and_code_in_documents_do_not_count(path: str, text: str) -> None:
    assert check(path, text) == []


@pytest.mark.parametrize(
    "text",
    [
        'f"{n} jobs wait"\n',
        'f"{n:,} free CPUs"\n',
        '"{number} workers".format(number=n)\n',
        '"1 jobs wait"\n',
    ],
)
def test_a_number_before_a_plural_is_found(text: str) -> None:
    assert len(check("service/a.py", text)) == 1


def test_a_counted_noun_is_fine() -> None:
    assert check("service/a.py", "f\"{count_of(n, 'job')} of 1 job\"\n") == []
