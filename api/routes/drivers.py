"""Calls of search drivers, each with its own token."""

from functools import partial

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from api import long_poll, problems
from api.dependencies import ACTORS, CallingDriver, Now, Services, ServicesDep, WriteSession
from service.errors import CannotFit, Conflict, NotFound
from service.execution.credentials import CallerKind
from service.searches import drivers, trials
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


@router.post("/begin", responses=problems.responses(Conflict))
def begin(driver_id: CallingDriver, services: ServicesDep) -> SearchDriverConfig:
    """What the driver begins with; its search runs from now on."""
    with services.database.transaction(actor=ACTORS[CallerKind.DRIVER]) as session:
        drivers.begin_driver(session, driver_id, now=services.now())
    with services.database.reading() as session:
        return drivers.build_config(session, driver_id)


@router.post("/trials", responses=problems.responses(Conflict, CannotFit))
def assign_trial(
    driver_id: CallingDriver,
    proposal: TrialProposal,
    session: WriteSession,
    services: ServicesDep,
    now: Now,
) -> AssignedTrial:
    """The trial with these parameters, new or known."""
    search = drivers.lock_active_search(session, driver_id)
    return trials.assign_trial(
        session,
        search,
        tune_id=proposal.tune_id,
        params=proposal.params,
        data_dir=services.settings.data_dir,
        now=now,
    )


@router.post("/trials/next", responses=problems.responses(NotFound))
async def next_evaluation(
    request: Request, driver_id: CallingDriver, body: NextEvaluationRequest, services: ServicesDep
) -> NextEvaluationResponse:
    """The trial's next evaluation, as soon as there is one; empty after `wait_seconds`."""
    response = await long_poll.poll_until(
        request,
        services,
        partial(_next_evaluation, services, driver_id, body),
        subject_ids=await run_in_threadpool(_find_subjects, services, driver_id, body.tune_id),
        wait_seconds=body.wait_seconds,
    )
    return response or NextEvaluationResponse()


@router.post("/trials/stop", responses=problems.responses(NotFound))
def stop_trial(
    driver_id: CallingDriver, decision: StopTrialRequest, session: WriteSession, now: Now
) -> DriverResponse:
    """Stops a trial for its scheduler; no change where it has ended."""
    try:
        search = drivers.lock_active_search(session, driver_id)
    except Conflict:
        return DriverResponse(should_exit=True)
    trials.stop_trial(
        session, search, tune_id=decision.tune_id, iteration=decision.iteration, now=now
    )
    return DriverResponse(should_exit=False)


@router.post("/heartbeat")
async def heartbeat(
    request: Request, driver_id: CallingDriver, body: HeartbeatRequest, services: ServicesDep
) -> DriverResponse:
    """Responds after `wait_seconds`, or at once where the driver must exit."""
    response = await long_poll.poll_until(
        request,
        services,
        partial(_record_heartbeat, services, driver_id),
        subject_ids=[driver_id],
        wait_seconds=body.wait_seconds,
        is_worth_asking=partial(_must_exit, services, driver_id),
    )
    return response or DriverResponse(should_exit=False)


@router.post("/finish", responses=problems.responses(Conflict))
def finish(
    driver_id: CallingDriver, body: FinishSearchRequest, session: WriteSession, now: Now
) -> DriverResponse:
    """All trials have ended."""
    drivers.finish_driver(session, driver_id, message=body.message, now=now)
    return DriverResponse(should_exit=True)


def _find_subjects(services: Services, driver_id: str, tune_id: str) -> list[str]:
    """What a trial's next evaluation depends on."""
    with services.database.reading() as session:
        search = drivers.find_active_search(session, driver_id)
        if search is None:
            return [driver_id]
        return [driver_id, *trials.list_job_ids(session, search, tune_id=tune_id)]


def _next_evaluation(
    services: Services, driver_id: str, body: NextEvaluationRequest
) -> NextEvaluationResponse | None:
    with services.database.reading() as session:
        search = drivers.find_active_search(session, driver_id)
        if search is None:
            return NextEvaluationResponse(should_exit=True)
        return trials.find_next_evaluation(
            session, search, tune_id=body.tune_id, after=body.after_iteration
        )


def _record_heartbeat(services: Services, driver_id: str) -> DriverResponse | None:
    with services.database.reading() as session:
        if not drivers.is_heartbeat_due(session, driver_id, now=services.now()):
            return None
    with services.database.transaction(actor=ACTORS[CallerKind.DRIVER]) as session:
        should_exit = drivers.record_heartbeat(session, driver_id, now=services.now())
        return DriverResponse(should_exit=True) if should_exit else None


def _must_exit(services: Services, driver_id: str) -> bool:
    with services.database.reading() as session:
        return drivers.find_active_search(session, driver_id) is None
