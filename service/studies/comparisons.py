"""Comparisons of two specs: studies with the members a and b."""

from typing import Any

from sqlalchemy.orm import Session

from service.errors import FieldError, InvalidInput, NotFound
from service.specs.study_spec import (
    ExpectedDifference,
    Scale,
    ScaleSpec,
    StudyDefinition,
    StudyMetric,
    StudySpec,
)
from service.storage.tables import StudyRow
from service.studies import records

_NAME = "comparison"
# The study decides them; tags are those of another job.
_LEFT_OUT = {"seed", "name", "dataset", "tags"}


def make_study(
    a: dict[str, Any],
    b: dict[str, Any],
    *,
    metric: StudyMetric,
    seeds: int,
    first_seed: int = 0,
    title: str = "Comparison of two specs",
) -> StudySpec:
    """InvalidInput where a spec is not valid, or the datasets differ."""
    dataset = a.get("dataset")
    if not isinstance(dataset, str) or dataset != b.get("dataset"):
        message = f"must be the same in a and b, received {dataset!r} and {b.get('dataset')!r}"
        field_errors = (FieldError(pointer="/b/dataset", message=message),)
        raise InvalidInput("the comparison is not valid", field_errors=field_errors)
    specs = {"a": a, "b": b}
    study = StudySpec(
        definition=StudyDefinition(
            name=_NAME,
            title=title,
            members={
                label: {name: value for name, value in spec.items() if name not in _LEFT_OUT}
                for label, spec in specs.items()
            },
            scales={Scale.OWN: ScaleSpec(dataset=dataset, seeds=seeds)},
            metrics=(metric,),
            comparisons=(ExpectedDifference(a="a", b="b", metric=metric),),
        ),
        scale=Scale.OWN,
        dataset=dataset,
        seeds=seeds,
        first_seed=first_seed,
    )
    for label in specs:
        study.make_member(label, 0)
    return study


def find_comparison(session: Session, comparison_id: str) -> StudyRow:
    row = records.find_study(session, comparison_id)
    if records.spec_of(row).definition.name != _NAME:
        raise NotFound(f"study {comparison_id} is no comparison; see /v1/studies/{comparison_id}")
    return row
