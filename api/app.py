"""The application: its routes, its errors, and the services of its process."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI
from starlette.types import ASGIApp

from api import browser_docs, dashboard, openapi, problems
from api.artifact_gc import ArtifactCollector
from api.change_listener import ChangeHub
from api.client_versions import API_VERSION, ClientVersionCheck
from api.dependencies import SESSION_SLOTS, Services
from api.monitoring import ServiceMonitor
from api.predictor import Predictor
from api.refused_credentials import RefusedCredentials
from api.request_limits import RequestLimits
from api.request_log import RequestLog
from api.request_meter import RequestMeter
from api.routes import (
    alerts,
    analyses,
    attempts,
    audit,
    checkpoints,
    comparisons,
    datasets,
    drivers,
    envelopes,
    exports,
    fair_share,
    groups,
    image_predictions,
    job_actions,
    jobs,
    metrics,
    models,
    monitoring,
    people,
    predictions,
    quotas,
    result_cards,
    runners,
    searches,
    session,
    shares,
    storage,
    stream,
    studies,
    system,
    webhooks,
)
from api.routes import (
    tokens as token_routes,
)
from api.shared_reads import SharedReads
from api.token_uses import TokenUses
from service.access import signing_keys, tokens
from service.errors import InvalidInput
from service.settings import Settings
from service.storage import schema
from service.storage.artifacts import ArtifactStore
from service.storage.clock import DatabaseClock
from service.storage.database import Database
from service.supervision import start_supervised

if TYPE_CHECKING:
    from api.launch_traces import LaunchTracer

logger = structlog.get_logger()

# More than a report within its limits; uploads have their own limit.
_MAX_BODY_BYTES = 16 * 2**20


def create_app(settings: Settings, *, now: Callable[[], datetime] | None = None) -> FastAPI:
    """The API over the settings' database and artifact store.

    `now` is the clock, UTC; None: the database's.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = Database(settings.database_url.get_secret_value())
        schema.require_compatible(database)
        stopping = threading.Event()
        clock = now or _follow_database_clock(database, stopping)
        secret = tokens.read_or_create(settings.token_file)
        with database.transaction() as session:
            tokens.set_admin_token(session, secret, now=clock())
        changes = ChangeHub(database)
        changes.start()
        artifacts = ArtifactStore(settings.artifacts_url)
        if not dashboard.is_built():
            logger.warning("the dashboard is not built; run `make dashboard` and start again")
        collector = ArtifactCollector(database, artifacts, data_dir=settings.data_dir, now=clock)
        collector.start()
        token_uses = TokenUses(database)
        token_uses.start()
        refused_credentials = RefusedCredentials(database, now=clock)
        refused_credentials.start()
        predictor = Predictor(artifacts, memory_bytes=settings.prediction_memory_bytes)
        tracer = make_tracer()
        app.state.services = Services(
            settings=settings,
            database=database,
            artifacts=artifacts,
            signing_key=signing_keys.read_or_create(settings.signing_key_file),
            changes=changes,
            predictor=predictor,
            session_slots=asyncio.Semaphore(SESSION_SLOTS),
            token_uses=token_uses,
            refused_credentials=refused_credentials,
            monitor=ServiceMonitor(
                settings, database, artifacts, app.state.request_meter, started_at=clock()
            ),
            tracer=tracer,
            now=clock,
        )
        app.state.shared_reads = SharedReads(app)
        yield
        stopping.set()
        await predictor.close()
        token_uses.close()
        refused_credentials.close()
        collector.close()
        changes.close()
        if tracer is not None:
            tracer.close()
        database.close()

    app = _Application(
        title="resnetd",
        summary="Trains deep residual networks from a durable queue",
        version=API_VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        max_body_size=_MAX_BODY_BYTES,
        # Clients do not follow redirects: a wrong path is a 404.
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.request_meter = RequestMeter()
    problems.install(app)
    app.add_middleware(ClientVersionCheck)
    for router in (
        jobs.router,
        job_actions.router,
        envelopes.router,
        groups.router,
        metrics.router,
        monitoring.router,
        predictions.router,
        image_predictions.router,
        analyses.router,
        result_cards.router,
        checkpoints.router,
        models.router,
        attempts.router,
        runners.router,
        comparisons.router,
        searches.router,
        studies.router,
        drivers.router,
        datasets.router,
        system.router,
        webhooks.router,
        alerts.router,
        shares.router,
        exports.router,
        session.router,
        people.router,
        audit.router,
        fair_share.router,
        quotas.router,
        storage.router,
        token_routes.router,
        stream.router,
    ):
        app.include_router(router)
    app.include_router(system.authenticated_router)
    browser_docs.install(app)
    dashboard.install(app)
    return app


def make_tracer() -> "LaunchTracer | None":
    """None unless OpenTelemetry's own variable names a collector.

    Raises InvalidInput without its library, which is an extra of the installation.
    """
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return None
    try:
        from api.launch_traces import LaunchTracer  # noqa: PLC0415
    except ImportError as error:
        raise InvalidInput(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is missing; install the extra "
            "otel of resnetd-server, or unset the variable"
        ) from error
    return LaunchTracer()


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            self.openapi_schema = openapi.build_document(self)
        return self.openapi_schema

    def build_middleware_stack(self) -> ASGIApp:
        """Around FastAPI's own, so that each error that they answer has a request id, too."""
        inner = problems.LargeBodyProblems(super().build_middleware_stack())
        limited = RequestLimits(inner, self.state.settings)
        return RequestLog(self.state.request_meter.wrap(limited))


def _follow_database_clock(database: Database, stopping: threading.Event) -> DatabaseClock:
    clock = DatabaseClock(database)
    start_supervised(lambda: clock.follow(stopping), name="clock", stopping=stopping)
    return clock
