"""Settings of the server processes, read from RESNETD_... variables or from secret files."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import InvalidInput

# Docker and Kubernetes mount secrets here: one file per secret, named like the variable.
SECRETS_DIR = Path(os.environ.get("RESNETD_SECRETS_DIR", "/run/secrets"))

AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
BaseUrl = Annotated[str, AfterValidator(lambda url: url.rstrip("/"))]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]


class ConcurrencyLimit(BaseModel):
    """How many jobs and workers of one user or tag run at a time; None: no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jobs: Count | None = None
    workers: Count | None = None


LimitKey = Annotated[str, Field(pattern=r"^(user|tag):.+$")]


class RecordRetention(BaseModel):
    """How many days a job's records are kept after it ends; None: until the job is deleted.

    `log_lines` applies to all jobs, ended or not: only the newest lines of each job are kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    logs_days: Annotated[float, Field(ge=0)] | None = 30.0
    events_days: Annotated[float, Field(ge=0)] | None = None
    metrics_days: Annotated[float, Field(ge=0)] | None = None
    log_lines: Annotated[int, Field(ge=1)] = 100_000


class Settings(BaseSettings):
    """The settings of a server process. A default may depend on the fields above it."""

    model_config = SettingsConfigDict(
        env_prefix="RESNETD_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    # Storage.
    var_dir: AbsolutePath = Field(default=Path("var"), validate_default=True)
    """Directory of everything that has no setting of its own."""
    database_url: SecretStr = Field(
        default_factory=lambda data: SecretStr(f"sqlite:///{data['var_dir'] / 'resnetd.db'}")
    )
    """`sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`; a secret."""
    artifacts_url: str = Field(
        default_factory=lambda data: (data["var_dir"] / "artifacts").as_uri()
    )
    """Artifact store: `file://`, `s3://BUCKET/PREFIX`, `gs://` or `az://`.

    Credentials are read as obstore reads them (`AWS_ACCESS_KEY_ID`, ...).
    """
    data_dir: AbsolutePath = Field(default_factory=lambda data: data["var_dir"] / "data")
    """Data sets, on the machine of the API and on the nodes that train."""
    work_dir: AbsolutePath = Field(default_factory=lambda data: data["var_dir"] / "work")
    """On each node: spooled reports, checkpoints before upload, files of Ray. Local disk."""
    token_file: AbsolutePath = Field(default_factory=lambda data: data["var_dir"] / "token")
    """File of the administrator's token, which only its owner can read.

    The API creates it at its first start.
    """

    # The API.
    api_host: str = "127.0.0.1"
    """Address on which the API listens."""
    api_port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port on which the API listens."""
    api_url: BaseUrl = Field(
        default_factory=lambda data: f"http://{data['api_host']}:{data['api_port']}"
    )
    """URL of the API as training processes reach it."""
    max_upload_bytes: Annotated[int, Field(ge=1)] = 4 * 2**30
    """Size limit of one upload: a part of a checkpoint, an archive of images."""

    # The Ray cluster.
    ray_url: BaseUrl = "http://127.0.0.1:8265"
    """URL of Ray's dashboard, through which the dispatcher submits Ray jobs."""
    ray_token: SecretStr | None = None
    """Authentication token of the Ray cluster; a secret."""
    max_cpus: Count | None = None
    """Upper bound of the CPUs that jobs may use. Default: all of the cluster."""
    max_gpus: Count | None = None
    """Upper bound of the GPUs that jobs may use. Default: all of the cluster."""

    # Runners.
    warm_runners: Count = 1
    """Idle runners to keep for the next job. 0: each attempt starts its own."""
    warm_runner_workers: Annotated[int, Field(ge=1)] = 1
    """Workers of the first warm runner; later ones follow the previous job."""
    max_attempts_per_runner: Annotated[int, Field(ge=1)] = 100
    """A runner is replaced after this number of attempts."""

    # Scheduling and retention.
    concurrency_limits: dict[LimitKey, ConcurrencyLimit] = {}
    """Jobs and workers that run at the same time, per user and tag, as JSON.

    `{"user:ann": {"jobs": 4, "workers": 16}, "tag:nightly": {"workers": 8}}`; `user:*` and `tag:*`
    apply to users and tags without their own entry.
    """
    record_retention: RecordRetention = RecordRetention()
    """How long records are kept after a job ends, as JSON; null: until the job is deleted.

    `log_lines`: newest lines that are kept of each job.
    """

    webhook_networks: tuple[IPvAnyNetwork, ...] = ()
    """Private networks that webhooks may call, as JSON: `["10.0.0.0/8"]`."""

    # Intervals and timeouts.
    lease_seconds: Seconds = 15.0
    """Lease of a dispatcher on an attempt; another one takes over when it expires."""
    poll_interval_seconds: Seconds = 1.0
    """Time between polls of the cluster; queued jobs do not wait for it."""
    start_timeout_seconds: Seconds = 180.0
    """Time from the submission of an attempt to its first report."""
    heartbeat_timeout_seconds: Seconds = 60.0
    """An attempt without a report for this time is stopped and retried."""
    cancel_grace_seconds: Seconds = 30.0
    """Time that an attempt has to stop by itself after a request."""
    termination_grace_seconds: Seconds = 20.0
    """Time that a runner has to exit by itself."""

    log_format: Literal["console", "json"] = "console"
    """`console` or `json`."""

    @property
    def attempts_per_runner(self) -> int:
        """One without warm runners: then no runner is reused."""
        return self.max_attempts_per_runner if self.warm_runners else 1


def load(**overrides: Any) -> Settings:
    """The settings of this process. InvalidInput names the first variable that is wrong."""
    secrets_dir = SECRETS_DIR if SECRETS_DIR.is_dir() else None
    try:
        return Settings(_secrets_dir=secrets_dir, **overrides)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "RESNETD_" + "_".join(str(step) for step in first["loc"]).upper()
        raise InvalidInput(f"{name}: {first['msg']}, received {first['input']!r}") from error
