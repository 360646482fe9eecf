"""`Client`: a connection to one service."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import httpx

from resnetd import config
from resnetd.alerts import Alerts
from resnetd.analyses import Analyses
from resnetd.api_client import ApiClient
from resnetd.catalog import Datasets, Recipes
from resnetd.exports import forms
from resnetd.exports.forms import ExportForm
from resnetd.jobs import Jobs
from resnetd.model_registry import ModelRegistry
from resnetd.models import AuditEntry, Cluster, Health, Session, SigningKey, WaitingJob
from resnetd.people import FairShares, People, Quotas, Tokens
from resnetd.resources import PAGE_SIZE, drop_empty
from resnetd.retry import Retry
from resnetd.searches import Searches
from resnetd.shares import Shares
from resnetd.studies import Comparisons, Studies
from resnetd.webhooks import Webhooks


class Client:
    """A connection to one service. Use it as a context manager, or close it.

    Threads may share a client. All errors are subclasses of `resnetd.ResnetdError`.

    Args:
        url: the URL of the service. Default: RESNETD_URL, the config file, or this machine.
        token: Default: RESNETD_TOKEN, RESNETD_TOKEN_FILE, the config file, or ./var/token.
        retry: when a request is repeated.
        timeout_seconds: of each connection, read and write. Default: 30.
        transport: an `httpx.BaseTransport` that makes the requests, for tests and proxies.

    Attributes:
        jobs: submit, find, follow jobs and act on them.
        submit: a shortcut for `jobs.submit`.
        analyses: analyses of checkpoints of finished jobs.
        searches: hyper-parameter searches.
        studies: networks over seeds, with reports beside the paper's numbers.
        comparisons: two specs over paired seeds.
        models: names for weights, with versions and aliases such as `production`.
        webhooks: URLs that are notified of job state changes.
        alerts: what people are notified of, and by which channel.
        people: who uses the service, with which role.
        tokens: the tokens of the caller and, for admins, of others.
        quotas: limits of people, groups and tags.
        fair_share: how much past usage counts in the queue.
        shares: read-only links to jobs and studies, for people without an account.
        datasets, recipes: what a spec can name.

    >>> with resnetd.Client(url, token) as client:
    ...     job = client.submit(depth=20, shortcut="A", dataset="digits")
    ...     job.network
    'resnet-20-A'
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        retry: Retry | None = None,
        timeout_seconds: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        connection = config.load_connection(url, token)
        self.url = connection.url
        self._api = ApiClient(
            connection, retry=retry or Retry(), timeout_seconds=timeout_seconds, transport=transport
        )
        self.jobs = Jobs(self._api)
        self.submit = self.jobs.submit
        self.analyses = Analyses(self._api)
        self.searches = Searches(self._api)
        self.studies = Studies(self._api)
        self.comparisons = Comparisons(self._api)
        self.models = ModelRegistry(self._api)
        self.webhooks = Webhooks(self._api)
        self.alerts = Alerts(self._api)
        self.people = People(self._api)
        self.tokens = Tokens(self._api)
        self.shares = Shares(self._api)
        self.quotas = Quotas(self._api)
        self.fair_share = FairShares(self._api)
        self.datasets = Datasets(self._api)
        self.recipes = Recipes(self._api)

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._api.close()

    def cluster(self) -> Cluster:
        """Return the CPUs and GPUs of the cluster, in total and reserved.

        >>> client.cluster().cpus
        64
        """
        return self._api.get("/v1/cluster", Cluster)

    def signing_key(self) -> SigningKey:
        """Return the public key that verifies the service's result cards.

        >>> client.signing_key().algorithm
        'Ed25519'
        """
        return self._api.get("/v1/signing-key", SigningKey)

    def queue(self, *, limit: int = 50) -> tuple[WaitingJob, ...]:
        """Return the waiting jobs: first those that may start, in their order, then the others.

        Args:
            limit: at most this number of jobs. Default: 50.

        >>> [waiting.job_id == job.id for waiting in client.queue()]
        [True]
        """
        return self._api.get_list("/v1/queue", "jobs", WaitingJob, {"limit": limit})

    def whoami(self) -> Session:
        """Return whose token this is, and what it permits.

        >>> client.whoami().user
        'admin'
        """
        return self._api.get("/v1/session", Session)

    def audit(self, *, user: str | None = None, limit: int | None = 100) -> Iterator[AuditEntry]:
        """Iterate over the audit log, newest first, as an admin.

        Args:
            user: only what this person did. Default: all entries.
            limit: at most this number of entries; None for all. Default: 100.

        >>> client.people.add("ben").name
        'ben'
        >>> "person-added" in {entry.kind for entry in client.audit(limit=None)}
        True
        """
        params = drop_empty(user=user) | {"limit": min(limit or PAGE_SIZE, PAGE_SIZE)}
        pages = self._api.get_pages("/v1/audit", "entries", AuditEntry, params)
        return itertools.islice(pages, limit)

    def export(
        self, run_ids: str | Sequence[str], form: ExportForm | str, target: str | Path
    ) -> int:
        """Export jobs for other tools, and return how many.

        Args:
            run_ids: ids of jobs, and of searches and studies, of which all jobs are exported.
            form: `html`, a file with the page of a job, of a study, or of a comparison;
                `parquet`, a folder with `jobs.parquet` and `metrics.parquet`; `tensorboard`, a
                folder with a run for each job; `mlflow`, a run for each job with its weights;
                `wandb`, a folder with an offline run for each job.
            target: the path of the file or folder, or the URL of the MLflow server. A repeated
                export replaces the files, and updates the runs of the same jobs.

        >>> client.export(finished.id, "parquet", "runs")
        1

        Raises:
            NotFound: no job, search or study has the id; nothing is written.
            MissingExtra: the form needs a package that is not installed.
            ExportFailed: the MLflow server or wandb refuses the export, or does not answer.
            Conflict: the service has no dashboard, from which the page is made.
        """
        return forms.export(self, self._api, run_ids, ExportForm(form), str(target))

    def health(self) -> Health:
        """Return the versions of the service if it is ready. The request is not repeated.

        >>> client.health().api_version
        '1'

        Raises:
            CannotConnect, Unavailable: the service is not ready.
        """
        return self._api.get_once("/v1/health", Health)
