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
    """docs/settings.md documents each field. A default may depend on the fields above it."""

    model_config = SettingsConfigDict(
        env_prefix="RESNETD_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    # Storage.
    var_dir: AbsolutePath = Field(default=Path("var"), validate_default=True)
    database_url: SecretStr = Field(
        default_factory=lambda data: SecretStr(f"sqlite:///{data['var_dir'] / 'resnetd.db'}")
    )
    artifacts_url: str = Field(
        default_factory=lambda data: (data["var_dir"] / "artifacts").as_uri()
    )
    data_dir: AbsolutePath = Field(default_factory=lambda data: data["var_dir"] / "data")
    work_dir: AbsolutePath = Field(default_factory=lambda data: data["var_dir"] / "work")
    token_file: AbsolutePath = Field(default_factory=lambda data: data["var_dir"] / "token")

    # The API; `api_url` is its URL as training processes reach it.
    api_host: str = "127.0.0.1"
    api_port: Annotated[int, Field(ge=0, le=65535)] = 8000
    api_url: BaseUrl = Field(
        default_factory=lambda data: f"http://{data['api_host']}:{data['api_port']}"
    )
    max_upload_bytes: Annotated[int, Field(ge=1)] = 4 * 2**30

    # The Ray cluster.
    ray_url: BaseUrl = "http://127.0.0.1:8265"
    ray_token: SecretStr | None = None
    max_cpus: Count | None = None
    max_gpus: Count | None = None

    # Runners.
    warm_runners: Count = 1
    warm_runner_workers: Annotated[int, Field(ge=1)] = 1
    max_attempts_per_runner: Annotated[int, Field(ge=1)] = 100

    # Scheduling and retention. user:* and tag:* apply to users and tags without their own entry.
    concurrency_limits: dict[LimitKey, ConcurrencyLimit] = {}
    record_retention: RecordRetention = RecordRetention()

    # Private networks that webhooks may call.
    webhook_networks: tuple[IPvAnyNetwork, ...] = ()

    # Intervals and timeouts.
    lease_seconds: Seconds = 15.0
    poll_interval_seconds: Seconds = 1.0
    start_timeout_seconds: Seconds = 180.0
    heartbeat_timeout_seconds: Seconds = 60.0
    cancel_grace_seconds: Seconds = 30.0
    termination_grace_seconds: Seconds = 20.0

    log_format: Literal["console", "json"] = "console"

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
