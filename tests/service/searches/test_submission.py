"""Submission of searches."""

from typing import Any

import pytest

from service.errors import (
    CannotFit,
    InvalidInput,
)
from service.searches import submission
from service.specs import search_spec
from tests.support.core import NO_DATA, job_id_of, note, workers
from tests.support.searching import Searching, search_body


def test_a_search_whose_trials_can_never_run_is_refused(searching: Searching) -> None:
    job = search_body()["job"] | {"resources": workers(65)}
    # Its batch of 128 must be shared equally.
    job["recipe"] = job["recipe"] | {"batch_size": 130}
    with pytest.raises(CannotFit) as refused:
        searching.submit(job=job)
    assert refused.value.field_errors[0].pointer == "/job/resources"


@pytest.mark.parametrize("last", [65, 64])
def test_a_search_with_a_value_that_never_fits_the_cluster_is_refused(
    searching: Searching, last: int
) -> None:
    recipe = search_body()["job"]["recipe"] | {"batch_size": 64 * 65}
    fields: dict[str, Any] = {
        "job": search_body()["job"] | {"recipe": recipe},
        "space": {"resources.num_workers": {"choice": [1, last]}},
    }
    if last == 64:
        searching.submit(**fields)
        return
    with pytest.raises(CannotFit) as refused:
        searching.submit(**fields)
    assert "the cluster has 64" in refused.value.field_errors[0].message


def test_a_search_with_a_network_that_does_not_fit_its_checkpoint_is_refused(
    searching: Searching,
) -> None:
    source = searching.core.run(depth=8)
    searching.core.report(source.attempt_id, 2, checkpoints=[note(100)])
    start = {"job": job_id_of(source), "mode": "weights"}
    job = search_body()["job"] | {"start_from": start}
    with pytest.raises(InvalidInput) as refused:
        searching.submit(job=job, space={"depth": {"choice": [8, 14]}})
    assert refused.value.field_errors[0].pointer == "/job/depth"


def test_every_job_that_a_trial_may_start_from_is_checked(searching: Searching) -> None:
    source = searching.core.run(depth=8)
    searching.core.report(source.attempt_id, 2, checkpoints=[note(100)])
    job = search_body()["job"] | {"start_from": {"job": job_id_of(source), "mode": "weights"}}
    for values in (["0" * 16, job_id_of(source)], [job_id_of(source), "0" * 16]):
        with pytest.raises(InvalidInput) as refused:
            searching.submit(job=job, space={"start_from.job": {"choice": values}})
        assert refused.value.field_errors[0].pointer == "/job/start_from/job"


def test_the_trials_of_a_search_are_trainings(searching: Searching) -> None:
    source = searching.core.run(depth=8)
    searching.core.report(source.attempt_id, 2, checkpoints=[note(100)])
    start = {"job": job_id_of(source), "mode": "weights"}
    job = search_body()["job"] | {"start_from": start, "analysis": {"kind": "evaluation"}}
    with pytest.raises(InvalidInput) as refused:
        searching.submit(job=job)
    assert "/job/analysis" in [error.pointer for error in refused.value.field_errors]


def test_the_space_is_checked_at_submission(searching: Searching) -> None:
    spec = search_spec.SearchSpec.model_validate(search_body(space={"depth": {"choice": [9]}}))
    with searching.core.database.transaction() as session, pytest.raises(InvalidInput):
        submission.submit(session, spec, user="ann", data_dir=NO_DATA, now=searching.core.clock.now)
