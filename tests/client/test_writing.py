"""Specs out of files and settings."""

import io
from pathlib import Path
from typing import Any

import pytest

from resnetd import writing


@pytest.mark.parametrize(
    ("spec", "setting", "changed"),
    [
        ({}, "seed=7", {"seed": 7}),
        ({}, "name=a run", {"name": "a run"}),
        ({}, 'name="7"', {"name": "7"}),
        ({}, 'tags=["a"]', {"tags": ["a"]}),
        ({}, "name=a=b", {"name": "a=b"}),
        ({}, "name=", {"name": ""}),
        ({}, "recipe.learning_rate=NaN", {"recipe": {"learning_rate": "NaN"}}),
        (
            {"recipe": "quick"},
            "recipe.iterations=100",
            {"recipe": {"name": "quick", "iterations": 100}},
        ),
        (
            {"recipe": {"name": "quick"}},
            "recipe.lr_gamma=0.5",
            {"recipe": {"name": "quick", "lr_gamma": 0.5}},
        ),
    ],
)
def test_a_setting_changes_one_place(
    spec: dict[str, Any], setting: str, changed: dict[str, Any]
) -> None:
    assert writing.with_setting(spec, setting) == changed


def test_a_setting_leaves_the_spec_that_it_came_from() -> None:
    spec = {"recipe": {"name": "quick"}}
    writing.with_setting(spec, "recipe.iterations=5")
    assert spec == {"recipe": {"name": "quick"}}


@pytest.mark.parametrize("setting", ["seed", "=5", "recipe..x=1", ""])
def test_a_setting_without_a_place_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="write it as"):
        writing.with_setting({}, setting)


def test_a_setting_through_what_is_no_object_is_refused() -> None:
    with pytest.raises(ValueError, match="leads through 'seed', which is 7"):
        writing.with_setting({"seed": 7}, "seed.x=1")


def test_a_spec_is_read_from_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "spec.json"
    file.write_text('{"depth": 20}')
    assert writing.read_spec(str(file)) == {"depth": 20}
    monkeypatch.setattr("sys.stdin", io.StringIO('{"depth": 56}'))
    assert writing.read_spec("-") == {"depth": 56}


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"{", "is not JSON: .* line 1"), (b"[]", "no JSON object"), (b"\xff", "is not text")],
)
def test_a_file_without_a_spec_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "spec.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=told):
        writing.read_spec(str(file))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"cannot read nowhere\.json: No such file"):
        writing.read_spec("nowhere.json")
