"""Settings of all server processes: from RESNETD_... variables, or from files of secrets."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import InvalidInput

# Where Docker and Kubernetes put secrets, one file each, named like the variable.
SECRETS_DIR = Path(os.environ.get("RESNETD_SECRETS_DIR", "/run/secrets"))


class Limit(BaseModel):
    """How much of one user, or with one tag, may run at a time; None: as much as fits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jobs: Annotated[int, Field(ge=0)] | None = None
    workers: Annotated[int, Field(ge=0)] | None = None


class RecordRetention(BaseModel):
    """How long records of a job stay after its end, in days; None: for ever.

    `log_lines`: of each job the newest so many, whether it has ended or not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    logs_days: Annotated[float, Field(ge=0)] | None = 30.0
    events_days: Annotated[float, Field(ge=0)] | None = None
    metrics_days: Annotated[float, Field(ge=0)] | None = None
    log_lines: Annotated[int, Field(ge=1)] = 100_000


LimitKey = Annotated[str, Field(pattern=r"^(user|tag):.+$")]


class Settings(BaseSettings):
    """docs/settings.md explains each; seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="RESNETD_", extra="ignore", frozen=True)

    # Where things are kept.
    var_path: Path = Path("var")
    database_url: SecretStr | None = None
    artifacts_url: str | None = None
    data_path: Path | None = None
    token_file: Path | None = None

    # The API.
    api_host: str = "127.0.0.1"
    api_port: Annotated[int, Field(ge=0, le=65535)] = 8000
    api_url: str | None = None
    max_part_bytes: Annotated[int, Field(ge=1)] = 4 * 2**30

    # The cluster, as the dispatcher reaches it.
    ray_url: str = "http://127.0.0.1:8265"
    ray_token: SecretStr | None = None
    work_path: Path | None = None
    max_cpus: Annotated[int, Field(ge=0)] | None = None
    max_gpus: Annotated[int, Field(ge=0)] | None = None

    # Runners that wait for the next job.
    standbys: Annotated[int, Field(ge=0)] = 1
    standby_workers: Annotated[int, Field(ge=1)] = 1
    runner_attempts: Annotated[int, Field(ge=1)] = 100

    # The queue: by user:NAME or tag:NAME; user:* and tag:* for each one without an own entry.
    limits: dict[LimitKey, Limit] = {}

    # Retention; checkpoints have their own, in each spec.
    keep: RecordRetention = RecordRetention()

    # Private networks that webhooks may call: 10.0.0.0/8.
    webhook_networks: tuple[IPvAnyNetwork, ...] = ()

    # Patience.
    lease_seconds: Annotated[float, Field(gt=0)] = 15.0
    poll_seconds: Annotated[float, Field(gt=0)] = 1.0
    start_timeout_seconds: Annotated[float, Field(gt=0)] = 180.0
    silent_seconds: Annotated[float, Field(gt=0)] = 60.0
    cancel_grace_seconds: Annotated[float, Field(gt=0)] = 30.0
    teardown_seconds: Annotated[float, Field(gt=0)] = 20.0

    log_format: Literal["console", "json"] = "console"

    @field_validator("api_url", "ray_url")
    @classmethod
    def _has_no_trailing_slash(cls, url: str | None) -> str | None:
        return url.rstrip("/") if url is not None else None

    @property
    def resolved_database_url(self) -> str:
        if self.database_url is not None:
            return self.database_url.get_secret_value().strip()
        return f"sqlite:///{self.var_path.absolute() / 'resnetd.db'}"

    @property
    def runner_lives(self) -> int:
        """How many attempts a runner runs: one where nothing is to wait for another."""
        return self.runner_attempts if self.standbys else 1

    @property
    def resolved_artifacts_url(self) -> str:
        return self.artifacts_url or (self.var_path.absolute() / "artifacts").as_uri()

    @property
    def data_dir(self) -> Path:
        return (self.data_path or self.var_path / "data").absolute()

    @property
    def token_path(self) -> Path:
        return (self.token_file or self.var_path / "token").absolute()

    @property
    def work_dir(self) -> Path:
        return (self.work_path or self.var_path / "work").absolute()

    @property
    def resolved_api_url(self) -> str:
        """The API's URL as training processes see it."""
        return self.api_url or f"http://{self.api_host}:{self.api_port}"


def load(**overrides: Any) -> Settings:
    """The settings of this process. InvalidInput in one sentence where one is wrong."""
    secrets = SECRETS_DIR if SECRETS_DIR.is_dir() else None
    try:
        return Settings(_secrets_dir=secrets, **overrides)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "RESNETD_" + "_".join(str(step) for step in first["loc"]).upper()
        raise InvalidInput(f"{name}: {first['msg']}, received {first['input']!r}") from error
