"""What the drivers of searches ask, each with its own token."""

from functools import partial

from fastapi import APIRouter, Request

from api import long_poll
from api.dependencies import CallingDriver, Now, Services, ServicesDep, WriteSession
from service.errors import Conflict
from service.searches import drivers, searches, trials
from service.specs.protocol import (
    AssignedTrial,
    DriverResponse,
    FinishSearchRequest,
    HeartbeatRequest,
    NextEvaluationRequest,
    NextEvaluationResponse,
    SearchDriverConfig,
    StopTrialRequest,
    TrialProposal,
)

router = APIRouter(prefix="/v1/drivers/{driver_id}", tags=["attempts"])


@router.post("/begin")
def begin(search_id: CallingDriver, session: WriteSession, now: Now) -> SearchDriverConfig:
    """The search runs from then on."""
    brief = drivers.begin_driver(session, search_id, now=now)
    if brief is None:
        raise Conflict(f"search {search_id} needs no driver now")
    return brief


@router.post("/trials")
def take(
    search_id: CallingDriver, draft: TrialProposal, session: WriteSession, now: Now
) -> AssignedTrial:
    """The trial with these parameters, new or known."""
    search = searches.lock_search(session, search_id)
    if drivers.should_exit(search):
        raise Conflict(f"search {search_id} needs no driver now")
    return trials.assign_trial(session, search, tune_id=draft.tune_id, params=draft.params, now=now)


@router.post("/trials/next")
async def next_evaluation(
    request: Request, search_id: CallingDriver, question: NextEvaluationRequest, held: ServicesDep
) -> NextEvaluationResponse:
    """The trial's next evaluation, as soon as there is one; empty when the wait is over."""
    ask = partial(_next, held, search_id, question)
    answer = await long_poll.poll_until(request, held, ask, wait_seconds=question.wait_seconds)
    return answer or NextEvaluationResponse()


@router.post("/trials/stop")
def stop(
    search_id: CallingDriver, decision: StopTrialRequest, session: WriteSession, now: Now
) -> DriverResponse:
    """A scheduler's decision; of a trial that has ended it changes nothing."""
    search = searches.lock_search(session, search_id)
    is_over = drivers.should_exit(search)
    if not is_over:
        trials.stop_trial(
            session, search, tune_id=decision.tune_id, iteration=decision.iteration, now=now
        )
    return DriverResponse(is_over=is_over)


@router.post("/heartbeat")
async def heartbeat(
    request: Request, search_id: CallingDriver, beat: HeartbeatRequest, held: ServicesDep
) -> DriverResponse:
    """Answers when the wait is over, or at once where the driver is to leave."""
    heard = await long_poll.poll_until(
        request,
        held,
        partial(_heard, held, search_id),
        wait_seconds=beat.wait_seconds,
        is_worth_asking=partial(_is_over, held, search_id),
    )
    return heard or DriverResponse(is_over=False)


@router.post("/finish")
def finish(
    search_id: CallingDriver, word: FinishSearchRequest, session: WriteSession, now: Now
) -> DriverResponse:
    """Every trial has ended."""
    drivers.finish_driver(session, search_id, message=word.message, now=now)
    return DriverResponse(is_over=True)


def _next(
    held: Services, search_id: str, question: NextEvaluationRequest
) -> NextEvaluationResponse | None:
    with held.database.reading() as session:
        search = searches.find_search(session, search_id)
        if drivers.should_exit(search):
            return NextEvaluationResponse(is_over=True)
        return trials.find_next_evaluation(
            session, search, tune_id=question.tune_id, after=question.after
        )


def _heard(held: Services, search_id: str) -> DriverResponse | None:
    with held.database.transaction() as session:
        is_over = drivers.record_heartbeat(session, search_id, now=held.now())
        return DriverResponse(is_over=True) if is_over else None


def _is_over(held: Services, search_id: str) -> bool:
    with held.database.reading() as session:
        return drivers.should_exit(searches.find_search(session, search_id))
