"""Settings of the server processes, read from RESNETD_... variables or from secret files."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from service.errors import InvalidInput
from service.states import MembersSee

# Docker and Kubernetes mount secrets here: one file per secret, named like the variable.
_SECRETS_DIR = Path("/run/secrets")
_MAX_RECEIVED = 200
_YEAR_SECONDS = 366 * 86_400


def _reject_blank(value: Any) -> Any:
    """An empty path would be the working directory."""
    if isinstance(value, str) and not value.strip():
        raise ValueError("must be a path")
    return value


def _parse_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"must be JSON ({error})") from error


def _check_base_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port  # ValueError where it is no number
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError("must look like http://HOST:PORT, an IPv6 address in brackets")
    return url.rstrip("/")


def _check_artifacts_url(url: str) -> str:
    if "://" not in url:
        raise ValueError("must look like file:///PATH or s3://BUCKET/PREFIX")
    return url


def _read_blank_as_none(value: Any) -> Any:
    """Compose mounts the secret of a server that an operator may not have as an empty file."""
    return None if isinstance(value, str) and not value.strip() else value


def _check_smtp_url(secret: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(secret.get_secret_value().strip())
        _ = parts.port  # ValueError where it is no number
    except ValueError as error:
        raise ValueError("must have a number as its port") from error
    if parts.scheme not in {"smtp", "smtp+starttls", "smtps"} or not parts.hostname:
        raise ValueError("must look like smtps://USER:PASSWORD@HOST or smtp+starttls://HOST")
    if parts.scheme == "smtp" and parts.password is not None:
        raise ValueError("smtp:// does not encrypt the password; use smtps or smtp+starttls")
    return SecretStr(parts.geturl())


def _check_mlflow_url(secret: SecretStr) -> SecretStr:
    return SecretStr(_check_base_url(secret.get_secret_value().strip()))


AbsolutePath = Annotated[Path, BeforeValidator(_reject_blank), AfterValidator(Path.absolute)]
BaseUrl = Annotated[str, AfterValidator(_check_base_url)]
Count = Annotated[int, Field(ge=0)]
PerSecond = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Days = Annotated[float, Field(ge=0, le=36_600, allow_inf_nan=False)]
# An empty secret file is a mistake.
Secret = Annotated[SecretStr, Field(min_length=1)]
MlflowUrl = Annotated[Secret, AfterValidator(_check_mlflow_url)]
SmtpUrl = Annotated[Secret, AfterValidator(_check_smtp_url)]
Seconds = Annotated[float, Field(gt=0, le=_YEAR_SECONDS, allow_inf_nan=False)]
# pydantic-settings would raise an error without the variable's value.
Json = (NoDecode, BeforeValidator(_parse_json))


class RecordRetention(BaseModel):
    """How many days a job's records are kept after it ends; None: until the job is deleted.

    `log_lines` applies to all jobs, ended or not: only the newest lines of each job are kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    logs_days: Days | None = 30.0
    events_days: Days | None = None
    metrics_days: Days | None = None
    log_lines: Annotated[int, Field(ge=1)] = 100_000


class ScalableNodes(BaseModel):
    """Equal nodes that an autoscaler adds on demand: up to `count` of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: Annotated[int, Field(ge=1)]
    gpus: Count = 0
    count: Annotated[int, Field(ge=1, le=10_000)]


class Settings(BaseSettings):
    """The settings of a server process. A default may depend on the fields above it."""

    model_config = SettingsConfigDict(
        env_prefix="RESNETD_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    # Storage.
    var_dir: AbsolutePath = Field(default=Path("var"), validate_default=True)
    """Directory of everything that has no setting of its own."""
    database_url: Secret = Field(
        default_factory=lambda data: SecretStr(f"sqlite:///{data['var_dir'] / 'resnetd.db'}")
    )
    """`sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`; a secret.

    Hosts and options are libpq's: `@HOST1:5432,HOST2:5432/NAME?target_session_attrs=read-write`.
    """
    artifacts_url: Annotated[str, AfterValidator(_check_artifacts_url)] = Field(
        default_factory=lambda data: (data["var_dir"] / "artifacts").as_uri()
    )
    """Artifact store: `file://`, `s3://BUCKET/PREFIX`, `gs://` or `az://`.

    Credentials are read as obstore reads them (`AWS_ACCESS_KEY_ID`, ...).
    """
    data_dir: AbsolutePath = Field(default_factory=lambda data: data["var_dir"] / "data")
    """Datasets, on the machine of the API and on the nodes that train."""
    work_dir: AbsolutePath = Field(default_factory=lambda data: data["var_dir"] / "work")
    """On each node: spooled reports, checkpoints before upload, fetched datasets. Local disk."""
    token_file: AbsolutePath = Field(default_factory=lambda data: data["var_dir"] / "token")
    """File of the administrator's token, which only its owner can read.

    The API creates it at its first start.
    """
    signing_key_file: AbsolutePath = Field(
        default_factory=lambda data: data["var_dir"] / "signing-key.pem"
    )
    """File of the private key that signs result cards, which only its owner can read.

    The API creates it at its first start. Several APIs of one service need the same file.
    """

    # The API.
    api_host: str = "127.0.0.1"
    """Address on which the API listens."""
    api_port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port on which the API listens."""
    api_url: BaseUrl = Field(
        default_factory=lambda data: f"http://{format_address(data['api_host'], data['api_port'])}"
    )
    """URL of the API as training processes reach it."""
    max_upload_bytes: Annotated[int, Field(ge=1)] = 4 * 2**30
    """Size limit of one upload: a part of a checkpoint, an archive of images."""
    presigned_url_seconds: Annotated[int, Field(ge=0, le=604_800)] = 0
    """Validity of URLs from which large files are downloaded directly from S3. 0: from the API."""
    requests_per_second: PerSecond = 200.0
    """Requests with one token, on average over ten seconds, in each API process. 0: no limit."""
    anonymous_requests_per_second: PerSecond = 100.0
    """The same of requests without a valid token from one address."""
    max_streams: Count = 500
    """Event streams that one token may have open, in each API process. 0: no limit."""
    prediction_memory_bytes: Annotated[int, Field(ge=2**28)] = 2**31
    """Memory of a process that predicts images; each API process has up to two of them."""
    drain_seconds: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = 0.0
    """Time for which a stopping API still answers, while its health is 503.

    With a load balancer before several APIs: longer than this takes to notice.
    """
    members_see: MembersSee = MembersSee.ALL
    """Jobs, searches and studies that members see: `all`, or only their `own`."""

    # The Ray cluster.
    ray_url: BaseUrl = "http://127.0.0.1:8265"
    """URL of Ray's dashboard, through which the dispatcher submits Ray jobs."""
    ray_token: Secret | None = None
    """Authentication token of the Ray cluster; a secret."""
    max_cpus: Count | None = None
    """Upper bound of the CPUs that jobs may use. Default: all of the cluster."""
    max_gpus: Count | None = None
    """Upper bound of the GPUs that jobs may use. Default: all of the cluster."""
    scalable_nodes: Annotated[tuple[ScalableNodes, ...], *Json] = ()
    """All nodes that an autoscaler can have, as JSON: `[{"cpus": 8, "gpus": 1, "count": 4}]`.

    The dispatcher then requests nodes for the jobs that run and wait. Default: no autoscaler.
    """

    # Runners.
    warm_runners: Count = 1
    """Idle runners to keep for the next job. 0: each attempt starts its own."""
    warm_runner_workers: Annotated[int, Field(ge=1)] = 1
    """Workers of the first warm runner; later ones follow the previous job."""
    max_attempts_per_runner: Annotated[int, Field(ge=1)] = 100
    """A runner is replaced after this number of attempts."""

    # Retention.
    record_retention: Annotated[RecordRetention, *Json] = RecordRetention()
    """How long records are kept after a job ends, as JSON; null: until the job is deleted.

    `log_lines`: newest lines that are kept of each job.
    """

    # Webhooks and alerts.
    webhook_networks: Annotated[tuple[IPvAnyNetwork, ...], *Json] = ()
    """Private networks that webhooks and alerts may call, as JSON: `["10.0.0.0/8"]`."""
    public_url: BaseUrl | None = None
    """URL of the dashboard as people reach it, for links in alerts."""
    smtp_url: Annotated[SmtpUrl | None, BeforeValidator(_read_blank_as_none)] = None
    """SMTP server for alerts by e-mail; a secret, blank: none. `smtps://USER:PASSWORD@HOST`.

    `smtp+starttls://` has port 587. `smtp://` is without encryption, so without a password.
    """
    smtp_from: Annotated[str, Field(pattern=r"^[^@\s<>]+@[^@\s<>]+$")] = "resnetd@localhost"
    """Sender of alerts by e-mail."""
    mail_domains: Annotated[tuple[str, ...], *Json] = ()
    """Domains to which e-mails may go, as JSON: `["example.org"]`. Default: all."""

    # MLflow.
    mlflow_url: MlflowUrl | None = None
    """MLflow server that gets all trainings while they run; a secret.

    `https://USER:PASSWORD@HOST:PORT`, or without user and password. Default: none.
    """
    mlflow_experiment: Annotated[str, Field(min_length=1, max_length=200)] = "resnetd"
    """Experiment of MLflow in which each training is a run."""

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
    grow_after_seconds: Seconds = 60.0
    """Time for which more workers must be free before an elastic job is stopped to get them."""
    termination_grace_seconds: Seconds = 20.0
    """Time that a runner has to exit by itself."""

    log_format: Literal["console", "json"] = "console"
    """`console` or `json`, also of runners and drivers, which get it from the dispatcher."""

    @property
    def attempts_per_runner(self) -> int:
        """One without warm runners: then no runner is reused."""
        return self.max_attempts_per_runner if self.warm_runners else 1


def format_address(host: str, port: int) -> str:
    """As in a URL: an IPv6 address is in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def load(**overrides: Any) -> Settings:
    """The settings of this process. InvalidInput names the first variable that is wrong."""
    secrets_dir = _find_secrets_dir()
    try:
        return Settings(_secrets_dir=secrets_dir, **overrides)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field, *path = first["loc"]
        where = f" at {'/'.join(map(str, path))}" if path else ""
        expected = first["msg"].removeprefix("Value error, ")
        received = f"; received {first['input']!r:.{_MAX_RECEIVED}}"
        if _has_secret(Settings.model_fields[str(field)].annotation):
            received = ""
        # The chained error would show the value of a secret, too.
        raise InvalidInput(f"RESNETD_{str(field).upper()}{where}: {expected}{received}") from (
            error if received else None
        )
    except (OSError, SettingsError) as error:
        reason = error.__cause__ or error
        raise InvalidInput(f"a secret in {secrets_dir} cannot be read: {reason}") from error


def _has_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_has_secret(part) for part in get_args(annotation))


def _find_secrets_dir() -> Path | None:
    named = os.environ.get("RESNETD_SECRETS_DIR")
    if not named:
        return _SECRETS_DIR if _SECRETS_DIR.is_dir() else None
    if not Path(named).is_dir():
        raise InvalidInput(f"RESNETD_SECRETS_DIR: must be a directory; received {named!r}")
    return Path(named)
