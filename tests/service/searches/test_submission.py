"""Submission of searches."""

import pytest

from service.errors import (
    CannotFit,
    InvalidInput,
)
from service.searches import submission
from service.specs import search_spec
from tests.support.core import workers
from tests.support.searching import Searching, search_body


def test_a_search_whose_trials_can_never_run_is_refused(searching: Searching) -> None:
    job = search_body()["job"] | {"resources": workers(65)}
    # Its batch of 128 must be shared equally.
    job["recipe"] = job["recipe"] | {"batch_size": 130}
    with pytest.raises(CannotFit) as refused:
        searching.submit(job=job)
    assert refused.value.field_errors[0].pointer == "/job/resources"


def test_the_space_is_checked_at_submission(searching: Searching) -> None:
    spec = search_spec.SearchSpec.model_validate(search_body(space={"depth": {"choice": [9]}}))
    with searching.core.database.transaction() as session, pytest.raises(InvalidInput):
        submission.submit(session, spec, user="ann", now=searching.core.clock.now)
