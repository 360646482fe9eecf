"""What the drivers of searches ask, each with its own token."""

from functools import partial

from fastapi import APIRouter, Request

from api import waiting
from api.dependencies import CallingDriver, Held, Now, Services, Writing
from service import drivers, searches, trials
from service.errors import Conflict
from service.search_reports import (
    Dismissal,
    Draft,
    FollowedTrial,
    Heartbeat,
    SearchBrief,
    SearchFinish,
    TrialAnswer,
    TrialQuestion,
    TrialStop,
)

router = APIRouter(prefix="/v1/drivers/{driver_id}", tags=["attempts"])


@router.post("/begin")
def begin(search_id: CallingDriver, session: Writing, now: Now) -> SearchBrief:
    """The search runs from then on."""
    brief = drivers.brief(session, search_id, now=now)
    if brief is None:
        raise Conflict(f"search {search_id} needs no driver now")
    return brief


@router.post("/trials")
def take(search_id: CallingDriver, draft: Draft, session: Writing, now: Now) -> FollowedTrial:
    """The trial with these parameters, new or known."""
    search = searches.lock(session, search_id)
    if drivers.is_dismissed(search):
        raise Conflict(f"search {search_id} needs no driver now")
    return trials.take(session, search, tune_id=draft.tune_id, params=draft.params, now=now)


@router.post("/trials/next")
async def next_evaluation(
    request: Request, search_id: CallingDriver, question: TrialQuestion, held: Held
) -> TrialAnswer:
    """The trial's next evaluation, as soon as there is one; empty when the wait is over."""
    ask = partial(_next, held, search_id, question)
    answer = await waiting.until_there_is_one(
        request, held, ask, wait_seconds=question.wait_seconds
    )
    return answer or TrialAnswer()


@router.post("/trials/stop")
def stop(search_id: CallingDriver, decision: TrialStop, session: Writing, now: Now) -> Dismissal:
    """A scheduler's decision; of a trial that has ended it changes nothing."""
    search = searches.lock(session, search_id)
    is_over = drivers.is_dismissed(search)
    if not is_over:
        trials.stop(
            session, search, tune_id=decision.tune_id, iteration=decision.iteration, now=now
        )
    return Dismissal(is_over=is_over)


@router.post("/heartbeat")
async def heartbeat(
    request: Request, search_id: CallingDriver, beat: Heartbeat, held: Held
) -> Dismissal:
    """Answers when the wait is over, or at once where the driver is to leave."""
    heard = await waiting.until_there_is_one(
        request,
        held,
        partial(_heard, held, search_id),
        wait_seconds=beat.wait_seconds,
        is_worth_asking=partial(_is_over, held, search_id),
    )
    return heard or Dismissal(is_over=False)


@router.post("/finish")
def finish(search_id: CallingDriver, word: SearchFinish, session: Writing, now: Now) -> Dismissal:
    """Every trial has ended."""
    drivers.finish(session, search_id, message=word.message, now=now)
    return Dismissal(is_over=True)


def _next(held: Services, search_id: str, question: TrialQuestion) -> TrialAnswer | None:
    with held.database.reading() as session:
        search = searches.find(session, search_id)
        if drivers.is_dismissed(search):
            return TrialAnswer(is_over=True)
        return trials.answer(session, search, tune_id=question.tune_id, after=question.after)


def _heard(held: Services, search_id: str) -> Dismissal | None:
    with held.database.transaction() as session:
        is_over = drivers.heard(session, search_id, now=held.now())
        return Dismissal(is_over=True) if is_over else None


def _is_over(held: Services, search_id: str) -> bool:
    with held.database.reading() as session:
        return drivers.is_dismissed(searches.find(session, search_id))
