"""The service does what its OpenAPI document says: statuses, media types, schemas of both sides.

Each generated request is sent as an admin, or as the process that the route is for, and again with
a link, or a token of another role, scope or tag, one after the other.
"""

from itertools import cycle
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.support.api import Api
from tests.support.contract import DOCUMENT
from tests.support.rows import Rows

SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = {
    operation.label: operation
    for operation in (result.ok() for result in SCHEMA.get_all_operations())  # type: ignore[union-attr]
}
# What a schema cannot say decides here: one field depends on others, on a checksum, on a row.
DEPEND_ON_MORE = {
    "GET /v1/audit",  # page tokens
    "GET /v1/groups",  # fields of `where` and `by`
    "GET /v1/jobs",  # fields of `where` and `sort`
    "GET /v1/jobs/{job_id}/events",  # an empty Last-Event-ID matches null
    "GET /v1/searches",  # page tokens
    "GET /v1/searches/{search_id}/events",
    "GET /v1/metrics",
    "GET /v1/models",  # page tokens
    "GET /v1/studies",
    "GET /v1/stream",  # paths of other requests; a valid one has no end
    "PATCH /v1/jobs/{job_id}",  # 50.0 is an integer in JSON Schema
    "PATCH /v1/searches/{search_id}",
    "POST /v1/alerts",  # addresses, and names that no DNS server knows
    "POST /v1/analyses",
    "POST /v1/attempts/{attempt_id}/finish",  # rows of a table are as long as its columns
    "POST /v1/attempts/{attempt_id}/reports",
    "POST /v1/datasets",
    "POST /v1/drivers/{driver_id}/trials",
    "POST /v1/jobs",
    "POST /v1/comparisons",
    "POST /v1/jobs/{job_id}/clone",
    "POST /v1/jobs/{job_id}/predictions",  # an image
    "POST /v1/jobs:batch",
    "POST /v1/jobs:plan",
    "POST /v1/searches",
    "POST /v1/searches/{search_id}/extend",
    "POST /v1/searches/{search_id}/confirm",
    "POST /v1/shares",  # either jobs or a study, of those that exist
    "POST /v1/studies",
    "POST /v1/tokens",  # a time that is over
    "POST /v1/webhooks",  # names that no DNS server knows
    "PUT /v1/attempts/{attempt_id}/checkpoints/{iteration}/{part}",
    "PUT /v1/models/{model_id}/aliases/{alias}",  # 3.0 is an integer in JSON Schema
}


@pytest.mark.parametrize("label", OPERATIONS)
def test_the_service_follows_its_document(label: str, api: Api) -> None:
    operation = OPERATIONS[label]
    rows = Rows(api)
    headers = {"Authorization": f"Bearer {rows.find_token(operation.path)}"}
    limited = cycle(rows.limited_tokens)
    excluded: list[Any] = [positive_data_acceptance] if label in DEPEND_ON_MORE else []

    @settings(
        max_examples=len(rows.limited_tokens),
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), is_known=st.booleans())
    def check(case: schemathesis.Case[Any], *, is_known: bool) -> None:
        if is_known:
            case.path_parameters |= {
                name: rows.in_path[name] for name in case.path_parameters if name in rows.in_path
            }
        if isinstance(case.body, dict) and "wait_seconds" in case.body:
            case.body["wait_seconds"] = 0
        case.call_and_validate(base_url=api.url, headers=headers, excluded_checks=excluded)
        # What is valid may be refused.
        case.call_and_validate(
            base_url=api.url,
            headers={"Authorization": f"Bearer {next(limited)}"},
            excluded_checks=[positive_data_acceptance],
        )

    check()
