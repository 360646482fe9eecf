"""The envelope of a job: whether its curve is as expected from jobs with other seeds."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from api import problems
from api.dependencies import ReadSession, authorize
from api.views import View
from service.errors import NotFound
from service.jobs import envelope
from service.jobs.envelope import FALSE_ALARM_RATE, MIN_JOBS, SERIES, EnvelopeVerdict

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[Depends(authorize)])


class EnvelopePointView(View):
    """Errors in percent. `value`: of the job; null where it was not evaluated or not finite."""

    iteration: int
    low: float
    mean: float
    high: float
    value: float | None


class DepartureView(View):
    """`points`: how far outside; null, like `value`, where the error was not finite."""

    iteration: int
    value: float | None
    points: float | None


class EnvelopeView(View):
    verdict: EnvelopeVerdict
    message: Annotated[str, Field(description="a sentence, for a reader")]
    series: str = SERIES
    false_alarm_rate: Annotated[
        float, Field(description="share of normal jobs that leave the envelope, at most")
    ] = FALSE_ALARM_RATE
    looks: Annotated[int, Field(description="evaluations of the complete training")]
    min_jobs: int = MIN_JOBS
    job_ids: Annotated[list[str], Field(description="of the jobs that the envelope is made of")]
    departure: Annotated[DepartureView | None, Field(description="where it left the envelope")]
    points: list[EnvelopePointView]


@router.get("/{job_id}/envelope", responses=problems.responses(NotFound))
def get_envelope(job_id: str, session: ReadSession) -> EnvelopeView:
    """Whether the job's test errors are as expected from completed jobs with other seeds.

    Of a running job, so far. The interval of each evaluation is mean ± t * s * sqrt(1 + 1/n) over
    the other jobs, with the false alarms divided among all evaluations. A job leaves the envelope
    with two evaluations in a row, or with its last one.
    """
    return EnvelopeView.model_validate(envelope.read_envelope(session, job_id))
