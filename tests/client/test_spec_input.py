"""Specs from files and settings."""

import io
from pathlib import Path
from typing import Any

import pytest

from resnetd.cli import spec_input


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
def test_a_setting_changes_one_field(
    spec: dict[str, Any], setting: str, changed: dict[str, Any]
) -> None:
    assert spec_input.apply_setting(spec, setting) == changed


def test_a_setting_does_not_change_the_original_spec() -> None:
    spec = {"recipe": {"name": "quick"}}
    spec_input.apply_setting(spec, "recipe.iterations=5")
    assert spec == {"recipe": {"name": "quick"}}


@pytest.mark.parametrize("setting", ["seed", "=5", "recipe..x=1", ""])
def test_a_setting_without_a_field_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="expected FIELD=VALUE"):
        spec_input.apply_setting({}, setting)


def test_a_path_through_a_value_that_is_no_object_is_refused() -> None:
    with pytest.raises(ValueError, match="'seed' is 7, not an object"):
        spec_input.apply_setting({"seed": 7}, "seed.x=1")


def test_a_spec_is_read_from_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "spec.json"
    file.write_text('{"depth": 20}')
    assert spec_input.read_spec(str(file)) == {"depth": 20}
    monkeypatch.setattr("sys.stdin", io.StringIO('{"depth": 56}'))
    assert spec_input.read_spec("-") == {"depth": 56}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON: .* line 1"),
        (b"[]", "must have a JSON object"),
        (b"\xff", "is not UTF-8 text"),
    ],
)
def test_a_file_without_a_json_object_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "spec.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        spec_input.read_spec(str(file))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ValueError, match=r"cannot read nowhere\.json: No such file"):
        spec_input.read_spec("nowhere.json")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("0f3k", {"job": "0f3k"}),
        ("0f3k:best", {"job": "0f3k", "checkpoint": "best"}),
        ("0f3k:best:deepen", {"job": "0f3k", "checkpoint": "best", "mode": "deepen"}),
        ("teacher@2", {"model": "teacher@2"}),
        ("a/b@production:weights", {"model": "a/b@production", "mode": "weights"}),
    ],
)
def test_a_start_is_a_job_a_checkpoint_and_a_mode(text: str, fields: dict[str, str]) -> None:
    assert spec_input.parse_start_from(text) == fields


@pytest.mark.parametrize("text", ["", "0f3k::deepen", "a:b:c:d", "a/b:c:d", "a@b:"])
def test_a_start_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected JOB"):
        spec_input.parse_start_from(text)
