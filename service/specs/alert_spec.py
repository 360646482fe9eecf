"""What a person is notified of, and where, as users write it."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service.specs.labels import Tags
from service.states import AlertChannel, AlertCondition


def _sort(conditions: list[AlertCondition]) -> list[AlertCondition]:
    return sorted(set(conditions), key=list(AlertCondition).index)


class AlertSpec(BaseModel):
    """What a person wants to be notified of, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)

    channel: AlertChannel
    target: Annotated[
        str,
        Field(
            min_length=3,
            max_length=2000,
            pattern=r"^[\x21-\x7e]+$",
            description="the URL of the webhook, also of Slack or Discord; or an e-mail address",
            examples=["https://hooks.slack.com/services/T0/B0/x"],
        ),
    ]
    conditions: Annotated[list[AlertCondition], Field(min_length=1), AfterValidator(_sort)]
    tags: Annotated[Tags, Field(description="only jobs with one of these; empty: all")] = ()
    all_jobs: Annotated[bool, Field(description="of an admin: the jobs of all people")] = False
    minutes: Annotated[
        int, Field(ge=1, le=10_080, description="for which a job is silent, or the queue stuck")
    ] = 5
    evaluations: Annotated[
        int, Field(ge=2, le=1000, description="without a lower error, which are a plateau")
    ] = 10
