# Generated from `Client` by `make docs`. Do not edit.

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import httpx
from matplotlib.axes import Axes

from resnetd import downloads
from resnetd.exports.forms import ExportForm
from resnetd.metrics import Metrics
from resnetd.models import (
    Alert,
    AlertChannel,
    AlertCondition,
    AnalysisJob,
    AnalysisResult,
    Attempt,
    AuditEntry,
    Checkpoint,
    Cluster,
    Comparison,
    Dataset,
    Delivery,
    Envelope,
    Event,
    FairShare,
    Groups,
    Health,
    ImagePrediction,
    Importance,
    Job,
    LogLine,
    Model,
    ModelAlias,
    ModelVersion,
    Person,
    Plan,
    Quota,
    Recipe,
    Role,
    Search,
    Session,
    Share,
    SigningKey,
    Storage,
    Study,
    Token,
    TokenScope,
    Trial,
    WaitingJob,
    Webhook,
)
from resnetd.retry import Retry

class AsyncJobs:
    async def submit(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job: ...
    async def submit_batch(
        self, specs: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> tuple[Job, ...]: ...
    async def plan(self, spec: Mapping[str, Any] | None = None, **fields: Any) -> Plan: ...
    async def get(self, job_id: str) -> Job: ...
    async def find(self, prefix: str) -> Job: ...
    def list(
        self,
        *,
        state: str | Sequence[str] = (),
        kind: str | Sequence[str] = (),
        dataset: str | None = None,
        tag: str | Sequence[str] = (),
        name: str | None = None,
        text: str | None = None,
        where: str | Sequence[str] = (),
        sort: str | None = None,
        archived: bool | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[Job]: ...
    async def update(
        self,
        job_id: str,
        *,
        priority: int | None = None,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        note: str | None = None,
        starred: bool | None = None,
        archived: bool | None = None,
    ) -> Job: ...
    async def hold(self, job_id: str) -> Job: ...
    async def release(self, job_id: str) -> Job: ...
    async def pause(self, job_id: str) -> Job: ...
    async def resume(self, job_id: str) -> Job: ...
    async def cancel(self, job_id: str) -> Job: ...
    async def kill(self, job_id: str) -> Job: ...
    async def clone(
        self,
        job_id: str,
        changes: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job: ...
    async def delete(self, job_id: str) -> None: ...
    async def wait(
        self,
        job_id: str,
        *,
        timeout_seconds: float | None = None,
        check: bool = True,
        poll_seconds: float = 1.0,
    ) -> Job: ...
    def watch(
        self, job_id: str, *, after: int = 0, poll_seconds: float = 1.0
    ) -> AsyncGenerator[Event]: ...
    def events(self, job_id: str, *, after: int = 0) -> AsyncGenerator[Event]: ...
    def logs(
        self,
        job_id: str,
        *,
        after: int = 0,
        tail: int | None = None,
        follow: bool = False,
        poll_seconds: float = 1.0,
    ) -> AsyncGenerator[LogLine]: ...
    async def metrics(self, job_id: str, *, series: str | Sequence[str] = ()) -> Metrics: ...
    async def metrics_csv(self, job_id: str, *, series: str | Sequence[str] = ()) -> str: ...
    async def plot(self, job_ids: str | Sequence[str], *, axes: Axes | None = None) -> Axes: ...
    async def compare(self, job_ids: Sequence[str], *, metric: str = "test/error") -> Groups: ...
    async def attempts(self, job_id: str) -> tuple[Attempt, ...]: ...
    async def checkpoints(self, job_id: str) -> tuple[Checkpoint, ...]: ...
    async def envelope(self, job_id: str) -> Envelope: ...
    async def result_card(self, job_id: str) -> bytes: ...
    async def download(
        self,
        job_id: str,
        which: str | None = None,
        *,
        format: str = "safetensors",
        path: str | Path | None = None,
        on_progress: downloads.OnProgress | None = None,
    ) -> Path: ...
    async def predict(self, job_id: str, image: str | Path | bytes) -> ImagePrediction: ...

class AsyncAnalyses:
    async def submit(
        self,
        job_id: str,
        kind: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        checkpoint: str = "best",
        dataset: str | None = None,
        priority: int = 50,
        resources: Mapping[str, Any] | None = None,
        name: str | None = None,
        tags: tuple[str, ...] = (),
        idempotency_key: str | None = None,
    ) -> Job: ...
    async def list(self, job_id: str) -> tuple[AnalysisJob, ...]: ...
    async def result(self, job_id: str) -> AnalysisResult: ...
    async def csv(self, job_id: str, *, table: str | None = None) -> str: ...
    async def figure(
        self, job_id: str, *, format: str = "svg", path: str | Path | None = None
    ) -> bytes: ...

class AsyncSearches:
    async def submit(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Search: ...
    async def get(self, search_id: str) -> Search: ...
    async def find(self, prefix: str) -> Search: ...
    def list(self, *, limit: int | None = None) -> AsyncGenerator[Search]: ...
    async def best(self, search_id: str) -> tuple[Trial, ...]: ...
    async def trials(self, search_id: str) -> tuple[Trial, ...]: ...
    async def trials_csv(self, search_id: str) -> str: ...
    async def importance(self, search_id: str) -> dict[str, Importance]: ...
    async def confirm(
        self, search_id: str, *, seeds: int = 6, metric: str = "test/error"
    ) -> Comparison: ...
    async def pause(self, search_id: str) -> Search: ...
    async def resume(self, search_id: str) -> Search: ...
    async def cancel(self, search_id: str) -> Search: ...
    async def extend(self, search_id: str, **budget: Any) -> Search: ...
    async def delete(self, search_id: str) -> None: ...
    async def wait(
        self, search_id: str, *, timeout_seconds: float | None = None, poll_seconds: float = 1.0
    ) -> Search: ...

class AsyncStudies:
    async def definitions(self) -> dict[str, str]: ...
    async def submit(
        self,
        study: str | Mapping[str, Any],
        *,
        scale: str = "smoke",
        seeds: int | None = None,
        dataset: str | None = None,
        job: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Study: ...
    async def get(self, study_id: str) -> Study: ...
    async def find(self, prefix: str) -> Study: ...
    def list(self, *, limit: int | None = None) -> AsyncGenerator[Study]: ...
    async def report(
        self, study_id: str, *, format: str = "md", path: str | Path | None = None
    ) -> bytes: ...
    async def delete(self, study_id: str) -> None: ...
    async def wait(
        self, study_id: str, *, timeout_seconds: float | None = None, poll_seconds: float = 1.0
    ) -> Study: ...

class AsyncComparisons:
    async def submit(
        self,
        a: Mapping[str, Any],
        b: Mapping[str, Any],
        *,
        metric: str = "test/error",
        seeds: int = 6,
        idempotency_key: str | None = None,
    ) -> Comparison: ...
    async def get(self, comparison_id: str) -> Comparison: ...

class AsyncModelRegistry:
    async def register(
        self, name: str, job_id: str, *, checkpoint: str = "newest", note: str = ""
    ) -> ModelVersion: ...
    def list(self) -> AsyncGenerator[Model]: ...
    async def get(self, name: str) -> Model: ...
    async def versions(self, name: str) -> tuple[ModelVersion, ...]: ...
    async def resolve(self, reference: str) -> ModelVersion: ...
    async def promote(
        self, name: str, alias: str, *, version: int, note: str = ""
    ) -> ModelAlias: ...
    async def remove_alias(self, name: str, alias: str) -> None: ...
    def history(self, name: str) -> AsyncGenerator[Event]: ...
    async def delete_version(self, name: str, version: int) -> None: ...
    async def delete(self, name: str) -> None: ...
    async def download(
        self,
        reference: str,
        *,
        format: str = "safetensors",
        path: str | Path | None = None,
        on_progress: downloads.OnProgress | None = None,
    ) -> Path: ...

class AsyncWebhooks:
    async def create(self, url: str, *, states: str | Sequence[str] = ()) -> Webhook: ...
    async def list(self) -> tuple[Webhook, ...]: ...
    async def delete(self, webhook_id: str) -> None: ...
    async def ping(self, webhook_id: str) -> Delivery: ...
    async def deliveries(self, webhook_id: str, *, limit: int = 50) -> tuple[Delivery, ...]: ...

class AsyncAlerts:
    async def create(
        self,
        channel: str | AlertChannel,
        target: str,
        *,
        conditions: str | Sequence[str | AlertCondition],
        tags: str | Sequence[str] = (),
        all_jobs: bool = False,
        minutes: int = 5,
        evaluations: int = 10,
    ) -> Alert: ...
    async def list(self) -> tuple[Alert, ...]: ...
    async def delete(self, alert_id: str) -> None: ...
    async def test(self, alert_id: str) -> Delivery: ...
    async def log(self, alert_id: str, *, limit: int = 50) -> tuple[Delivery, ...]: ...

class AsyncPeople:
    async def add(
        self, name: str, *, role: str | Role = ..., group: str | None = None
    ) -> Person: ...
    async def list(self) -> tuple[Person, ...]: ...
    async def set_role(self, name: str, role: str | Role) -> Person: ...
    async def set_group(self, name: str, group: str | None) -> Person: ...
    async def remove(self, name: str, *, delete_jobs: bool = False) -> None: ...

class AsyncTokens:
    async def create(
        self,
        label: str,
        *,
        user: str | None = None,
        scope: str | TokenScope = ...,
        tag: str | None = None,
        expires_at: datetime | None = None,
    ) -> Token: ...
    async def list(self, *, user: str | None = None) -> tuple[Token, ...]: ...
    async def rotate(self, token_id: str) -> Token: ...
    async def revoke(self, token_id: str) -> None: ...

class AsyncShares:
    async def create(
        self,
        *,
        jobs: str | Sequence[str] = (),
        study: str | None = None,
        expires_at: datetime | None = None,
    ) -> Share: ...
    async def list(self) -> tuple[Share, ...]: ...
    async def revoke(self, share_id: str) -> None: ...

class AsyncQuotas:
    async def set(
        self,
        key: str,
        *,
        jobs: int | None = None,
        workers: int | None = None,
        gpus: float | None = None,
        waiting: int | None = None,
        core_hours: float | None = None,
        gpu_hours: float | None = None,
        stored_bytes: int | None = None,
    ) -> Quota: ...
    async def list(self) -> tuple[Quota, ...]: ...
    async def storage(self, *, user: str | None = None) -> Storage: ...
    async def delete(self, key: str) -> None: ...

class AsyncFairShares:
    async def get(self) -> FairShare: ...
    async def set(self, *, weight: float, half_life_days: float) -> FairShare: ...

class AsyncDatasets:
    async def list(self) -> tuple[Dataset, ...]: ...
    async def delete(self, name: str) -> None: ...

class AsyncRecipes:
    async def list(self) -> tuple[Recipe, ...]: ...

class AsyncClient:
    jobs: AsyncJobs
    analyses: AsyncAnalyses
    searches: AsyncSearches
    studies: AsyncStudies
    comparisons: AsyncComparisons
    models: AsyncModelRegistry
    webhooks: AsyncWebhooks
    alerts: AsyncAlerts
    people: AsyncPeople
    tokens: AsyncTokens
    shares: AsyncShares
    quotas: AsyncQuotas
    fair_share: AsyncFairShares
    datasets: AsyncDatasets
    recipes: AsyncRecipes
    url: str

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        retry: Retry | None = None,
        timeout_seconds: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exception: object) -> None: ...
    async def close(self) -> None: ...
    async def submit(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job: ...
    async def cluster(self) -> Cluster: ...
    async def signing_key(self) -> SigningKey: ...
    async def queue(self, *, limit: int = 50) -> tuple[WaitingJob, ...]: ...
    async def whoami(self) -> Session: ...
    def audit(
        self, *, user: str | None = None, limit: int | None = 100
    ) -> AsyncGenerator[AuditEntry]: ...
    async def export(
        self, run_ids: str | Sequence[str], form: ExportForm | str, target: str | Path
    ) -> int: ...
    async def health(self) -> Health: ...
