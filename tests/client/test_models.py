"""Records: responses of newer and older services, and agreement with the API of this one."""

import inspect
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

import resnetd
from api.app import create_app
from resnetd import models
from resnetd.records import OpenEnum, Record, parse
from service import states
from service.catalog import datasets
from service.jobs import bottleneck, envelope
from service.scheduling import queue_status
from service.settings import Settings
from service.specs import job_spec, study_spec
from service.storage import events
from service.studies import report

_JOB: dict[str, Any] = {
    "id": "0f3k000000000001",
    "name": "resnet-20-A on digits",
    "network": "resnet-20-A",
    "state": "running",
    "spec": {"depth": 20},
    "created_at": "2026-11-21T12:00:00Z",
}


def _classes(module: object, base: type) -> dict[str, Any]:
    return {
        name: kind
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, base) and kind is not base
    }


_OUR_ENUMS = _classes(models, OpenEnum)
_THEIR_ENUMS = {
    name: kind
    for module in (
        *(states, bottleneck, datasets, envelope, events),
        *(job_spec, queue_status, report, study_spec),
    )
    for name, kind in _classes(module, StrEnum).items()
}
_RECORDS = _classes(models, Record)
_SCHEMAS = create_app(Settings(var_path=Path("var"))).openapi()["components"]["schemas"]


@pytest.mark.parametrize("name", _OUR_ENUMS)
def test_an_enum_has_the_names_and_values_of_the_service(name: str) -> None:
    theirs = {member.name: member.value for member in _THEIR_ENUMS[name]}
    if name == "EventKind":
        theirs |= {"PROGRESS": "progress"}  # of the stream only
    assert {member.name: member.value for member in _OUR_ENUMS[name]} == theirs


@pytest.mark.parametrize("name", _RECORDS)
def test_a_record_reads_fields_that_the_api_has(name: str) -> None:
    schema_name = f"{name}View" if f"{name}View" in _SCHEMAS else name
    properties = dict(_SCHEMAS[schema_name]["properties"])
    # A record of two views: what is created or read has more than what is listed.
    larger = {
        "Webhook": "NewWebhookView",
        "Alert": "NewAlertView",
        "Share": "NewShareView",
        "Study": "StudyReportView",
        "Token": "NewTokenView",
    }.get(name, schema_name)
    properties |= _SCHEMAS[larger]["properties"]
    assert set(_RECORDS[name].__struct_fields__) <= set(properties)
    for field, schema in properties.items():
        for referenced in _references(schema):
            # An enum of the API in a field that we read is one of our enums.
            if field in _RECORDS[name].__struct_fields__ and "enum" in _SCHEMAS[referenced]:
                assert referenced in _OUR_ENUMS


def _references(schema: dict[str, Any]) -> list[str]:
    """The names of the schemas that a field has as its type, its items or an alternative."""
    variants = [schema, schema.get("items", {}), *schema.get("anyOf", ())]
    return [variant["$ref"].rpartition("/")[2] for variant in variants if "$ref" in variant]


def test_missing_fields_have_their_default() -> None:
    job = parse(resnetd.Job, _JOB)
    assert job.created_at == datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert (job.progress, job.attempts, job.stop_requested) == (None, 0, None)


def test_unknown_fields_are_kept_in_the_document() -> None:
    progress = {"iteration": 1, "iterations": 2, "percent": 50, "phase": "x"}
    job = parse(resnetd.Job, _JOB | {"owner": "me", "progress": progress})
    assert job.document["owner"] == "me"
    assert job.progress is not None
    assert job.progress.document["phase"] == "x"
    assert job.progress.percent == 50.0


def test_unknown_values_of_enums_are_kept_and_equal_their_text() -> None:
    job = parse(resnetd.Job, _JOB | {"state": "frozen", "reason": "budget-spent"})
    assert job.state == "frozen"
    assert str(job.state) == "frozen"
    assert not job.is_final
    assert job.reason == "budget-spent"
    assert job.state not in set(resnetd.JobState)


def test_known_values_are_the_members() -> None:
    assert parse(resnetd.Job, _JOB).state is resnetd.JobState.RUNNING


def test_a_job_that_has_finished_is_final_in_any_state() -> None:
    document = _JOB | {"state": "archived", "finished_at": "2026-11-21T12:00:00Z"}
    assert parse(resnetd.Job, document).is_final


def test_records_are_frozen() -> None:
    job = parse(resnetd.Job, _JOB)
    with pytest.raises(AttributeError):
        job.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attempts": "two"}, r"Expected `int`, got `str` - at `\$\.attempts`"),
        ({"state": 5}, r"Expected `str`, got `int` - at `\$\.state`"),
        ({"progress": []}, r"Expected `object \| null`, got `array` - at `\$\.progress`"),
        ({"progress": {"iteration": 1}}, r"missing required field `iterations` - at"),
        ({"created_at": None}, r"got `null` - at `\$\.created_at`"),
        ({"created_at": "2026-11-21T12:00:00"}, r"timezone component - at `\$\.created_at`"),
        ({"result": {"test_error": "low"}}, r"at `\$\.result\.test_error`"),
    ],
)
def test_an_error_names_the_field_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(resnetd.Job, _JOB | change)
