"""The entrypoint of a search's driver, which is one Ray job: Ray Tune over the service's jobs.

Ray Tune's state is not saved. A driver that is restarted replays the search: the searcher proposes
the known parameters in their order, each is matched with its trial, and the evaluations that the
trial has already are reported at once.
"""

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import ray
import structlog
from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch

from service import log as logs
from service.errors import Conflict, InvalidInput, Unauthorized, Unavailable
from service.specs.protocol import SearchDriverConfig
from service.specs.search_space import Dimension, Distribution
from service.specs.search_spec import Algorithm, Scheduler, SearchSpec
from service.supervision import start_supervised
from service.text import count_of
from workers.cluster.trial_actor import TIME_ATTR, TrialActor, client_from_env, tune_name
from workers.reporting.driver_client import DriverClient
from workers.reporting.retry import DELIVERY_SECONDS, retry_until

# An actor reserves no CPU, but Ray rejects an empty request; this is the memory of one.
_RESOURCES = {"CPU": 0, "memory": 128 * 2**20}
_HEARTBEAT_SECONDS = 2.0

log = structlog.get_logger()


def main() -> int:
    """Exit status: 0 if the API knows how the search ended, or rejects the driver."""
    log_format = os.environ.get("RESNETD_LOG_FORMAT", "console")
    logs.configure(log_format, driver_id=os.environ.get("RESNETD_DRIVER_ID", ""))
    try:
        with client_from_env() as api:
            return _drive(api, Path(os.environ["RESNETD_WORK_DIR"]))
    except InvalidInput as error:
        log.critical("driver cannot start", error=str(error))
        return 2
    except (Conflict, Unauthorized) as error:
        log.warning("search no longer needs this driver", error=str(error))
        return 0
    except Unavailable as error:
        log.critical("API unavailable", error=str(error))
        return 1


def _drive(api: DriverClient, work_dir: Path) -> int:
    config = retry_until(api.fetch_config, deadline_seconds=DELIVERY_SECONDS)
    storage_path = work_dir / "searches" / os.environ["RESNETD_DRIVER_ID"]
    stopper = HeartbeatStopper(api)
    try:
        # "auto" fails without a cluster; no address would start one and write to ~/.ray.
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), logging_level="WARNING")
        results = make_tuner(config, api, stopper, storage_path).fit()
    finally:
        stopper.close()
        shutil.rmtree(storage_path, ignore_errors=True)
    if not stopper.is_over:
        message = f"{count_of(len(results), 'trial')}, {results.num_errors} without a result"
        retry_until(lambda: api.finish(message), deadline_seconds=DELIVERY_SECONDS)
    return 0


def make_tuner(
    config: SearchDriverConfig, api: DriverClient, stopper: "HeartbeatStopper", storage_path: Path
) -> tune.Tuner:
    spec = config.spec
    is_tpe = spec.algorithm is Algorithm.TPE
    # Ray Tune requires the metric in each result if it is named here.
    is_compared = spec.scheduler.name is not Scheduler.FIFO
    return tune.Tuner(
        tune.with_resources(TrialActor, _RESOURCES),
        param_space={} if is_tpe else _make_domains(spec),
        tune_config=tune.TuneConfig(
            metric=tune_name(spec.metric[0]) if is_compared else None,
            mode="min" if is_compared else None,
            num_samples=count_samples(spec),
            # BasicVariantGenerator has its own limit.
            max_concurrent_trials=spec.budget.concurrent if is_tpe else None,
            reuse_actors=True,
            search_alg=make_searcher(config),
            scheduler=make_scheduler(config),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage_path),
            stop=stopper,
            callbacks=[StopCallback(api, stopper)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )


class HeartbeatStopper(tune.Stopper):  # type: ignore[misc] # Ray has no types for mypy
    """Sends heartbeats to the API, and stops Ray Tune when the search is over."""

    def __init__(self, api: DriverClient) -> None:
        self._api = api
        self._closed = threading.Event()
        self.is_over = False
        start_supervised(self._beat, name="heartbeat", stopping=self._closed)

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune pickles it; the copy is not used."""
        return {}

    def __call__(self, _trial_id: str, _result: dict[str, Any]) -> bool:
        return self.is_over

    def stop_all(self) -> bool:
        return self.is_over

    def close(self) -> None:
        self._closed.set()

    def _beat(self) -> None:
        try:
            self.is_over = self._api.send_heartbeat(wait_seconds=_HEARTBEAT_SECONDS)
        except Unauthorized:
            self.is_over = True
        if self.is_over:
            self._closed.set()


class StopCallback(tune.Callback):  # type: ignore[misc] # as above
    """Reports trials that the scheduler stopped; the API knows which have ended."""

    def __init__(self, api: DriverClient, stopper: HeartbeatStopper) -> None:
        self._api = api
        self._stopper = stopper

    def __getstate__(self) -> dict[str, Any]:
        """As in HeartbeatStopper."""
        return {}

    def on_trial_complete(
        self, iteration: int, trials: list[Any], trial: Any, **_info: Any
    ) -> None:
        del iteration, trials
        # When the search is over, the API decides what happens to its trials.
        if not self._stopper.is_over:
            iteration = int(trial.last_result[TIME_ATTR])
            retry_until(
                lambda: self._api.stop_trial(trial.trial_id, iteration=iteration),
                deadline_seconds=DELIVERY_SECONDS,
            )


def count_samples(spec: SearchSpec) -> int:
    """Ray Tune multiplies this by the number of grid points."""
    return spec.trials // spec.grid_points


def make_searcher(config: SearchDriverConfig) -> Searcher | SearchAlgorithm:
    spec = config.spec
    if spec.algorithm is not Algorithm.TPE:
        # The seed determines all samples: a restarted driver draws the same in the same order.
        return BasicVariantGenerator(max_concurrent=spec.budget.concurrent, random_state=spec.seed)
    metrics = [tune_name(metric) for metric in spec.metric]
    return OptunaSearch(
        OptunaSearch.convert_search_space(_make_domains(spec)),
        metric=metrics if len(metrics) > 1 else metrics[0],
        mode=["min"] * len(metrics) if len(metrics) > 1 else "min",
        points_to_evaluate=config.known_params or None,
        # A restarted driver with the same seed would draw the known trials again.
        seed=spec.seed + len(config.known_params),
    )


def make_scheduler(config: SearchDriverConfig) -> TrialScheduler:
    stopping = config.spec.scheduler
    grace = stopping.grace_iterations
    if stopping.name is Scheduler.ASHA:
        return AsyncHyperBandScheduler(
            time_attr=TIME_ATTR,
            max_t=config.max_iterations,
            grace_period=min(grace or config.evaluate_every, config.max_iterations),
            reduction_factor=stopping.reduction_factor,
        )
    if stopping.name is Scheduler.MEDIAN:
        return MedianStoppingRule(time_attr=TIME_ATTR, grace_period=grace or config.evaluate_every)
    return FIFOScheduler()


def _make_domains(spec: SearchSpec) -> dict[str, Any]:
    return {path: make_domain(dimension) for path, dimension in spec.space.items()}


def make_domain(dimension: Dimension) -> Any:
    """Ray Tune's domain for the dimension."""
    arguments = list(dimension.arguments)
    if dimension.distribution is Distribution.GRID:
        return tune.grid_search(arguments)
    if dimension.distribution is Distribution.CHOICE:
        return tune.choice(arguments)
    return getattr(tune, dimension.distribution.value)(*arguments)
