"""The entrypoint of a search's driver, which is one Ray job: Ray Tune over the service's jobs.

Ray Tune's own state is kept nowhere. A driver that begins again plays the search again: the
searcher proposes the known parameters in their order, each finds its trial by them, and what the
trials had told by then is told at once.
"""

import logging
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

from service.errors import Conflict, InvalidInput, Unauthorized, Unavailable
from service.specs.protocol import SearchDriverConfig
from service.specs.search_space import Dimension, Distribution
from service.specs.search_spec import Algorithm, Scheduler, SearchSpec
from workers.cluster.trial_actor import TIME_ATTR, TrialActor, client_from_env, tune_name
from workers.reporting.driver_client import DriverClient
from workers.reporting.retry import DELIVERY_SECONDS, retry_until

# An actor holds no CPU, but a request of nothing at all is refused; this is what one occupies.
_RESOURCES = {"CPU": 0, "memory": 128 * 2**20}
_HEARTBEAT_SECONDS = 2.0

log = structlog.get_logger()


def main() -> int:
    """The exit status: 0 where the API knows how the search ended, or does not want to."""
    # A line for each question says nothing.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        with client_from_env() as api:
            return _drive(api, Path(os.environ["RESNETD_WORK_DIR"]))
    except InvalidInput as error:
        log.critical("no driver", error=str(error))
        return 2
    except (Conflict, Unauthorized) as error:
        log.warning("nobody waits for this driver", error=str(error))
        return 0
    except Unavailable as error:
        log.critical("the API is away", error=str(error))
        return 1


def _drive(api: DriverClient, work_path: Path) -> int:
    brief = retry_until(api.brief, deadline_seconds=DELIVERY_SECONDS)
    storage_path = work_path / "searches" / os.environ["RESNETD_DRIVER_ID"]
    heart = HeartbeatStopper(api)
    try:
        # "auto" fails without a cluster; no address would start one and write to ~/.ray.
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), logging_level="WARNING")
        results = make_tuner(brief, api, heart, storage_path).fit()
    finally:
        heart.rest()
        shutil.rmtree(storage_path, ignore_errors=True)
    if not heart.is_over:
        message = f"{len(results)} trials, {results.num_errors} of them without a measurement"
        retry_until(lambda: api.finish(message), deadline_seconds=DELIVERY_SECONDS)
    return 0


def make_tuner(
    brief: SearchDriverConfig, api: DriverClient, heart: "HeartbeatStopper", storage_path: Path
) -> tune.Tuner:
    spec = brief.spec
    is_tpe = spec.algorithm is Algorithm.TPE
    # What no part of Ray Tune looks at, it need not find in every result.
    is_compared = spec.scheduler.name is not Scheduler.FIFO
    return tune.Tuner(
        tune.with_resources(TrialActor, _RESOURCES),
        param_space={} if is_tpe else _make_domains(spec),
        tune_config=tune.TuneConfig(
            metric=tune_name(spec.metric[0]) if is_compared else None,
            mode="min" if is_compared else None,
            num_samples=num_samples(spec),
            # The other generator has its own number.
            max_concurrent_trials=spec.budget.concurrent if is_tpe else None,
            reuse_actors=True,
            search_alg=make_searcher(brief),
            scheduler=make_scheduler(brief),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage_path),
            stop=heart,
            callbacks=[StopCallback(api, heart)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )


class HeartbeatStopper(tune.Stopper):  # type: ignore[misc] # Ray has no types for mypy
    """Tells the API that the driver lives, and Ray Tune when the search is over."""

    def __init__(self, api: DriverClient) -> None:
        self._api = api
        self._resting = threading.Event()
        self.is_over = False
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)
        self._thread.start()

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune saves a copy, which nobody reads."""
        return {}

    def __call__(self, _trial_id: str, _result: dict[str, Any]) -> bool:
        return self.is_over

    def stop_all(self) -> bool:
        return self.is_over

    def rest(self) -> None:
        self._resting.set()

    def _beat(self) -> None:
        while not self._resting.is_set() and not self.is_over:
            try:
                self.is_over = self._api.is_over(wait_seconds=_HEARTBEAT_SECONDS)
            except Unauthorized:
                self.is_over = True
            except Unavailable:
                self._resting.wait(_HEARTBEAT_SECONDS)


class StopCallback(tune.Callback):  # type: ignore[misc] # as above
    """Tells the API which trials Ray Tune has stopped; of those that have ended it knows."""

    def __init__(self, api: DriverClient, heart: HeartbeatStopper) -> None:
        self._api = api
        self._heart = heart

    def __getstate__(self) -> dict[str, Any]:
        """As above."""
        return {}

    def on_trial_complete(
        self, iteration: int, trials: list[Any], trial: Any, **_info: Any
    ) -> None:
        del iteration, trials
        # Where the search is over, the API has decided what becomes of its trials.
        if not self._heart.is_over:
            iteration = int(trial.last_result[TIME_ATTR])
            retry_until(
                lambda: self._api.stop(trial.trial_id, iteration=iteration),
                deadline_seconds=DELIVERY_SECONDS,
            )


def num_samples(spec: SearchSpec) -> int:
    """Ray Tune multiplies them by the points of a grid."""
    return spec.trials // spec.grid_points


def make_searcher(brief: SearchDriverConfig) -> Searcher | SearchAlgorithm:
    spec = brief.spec
    if spec.algorithm is not Algorithm.TPE:
        # Its draws follow from the seed alone: begun again, it draws the same in the same order.
        return BasicVariantGenerator(max_concurrent=spec.budget.concurrent, random_state=spec.seed)
    metric = [tune_name(one) for one in spec.metric]
    return OptunaSearch(
        OptunaSearch.convert_search_space(_make_domains(spec)),
        metric=metric if len(metric) > 1 else metric[0],
        mode=["min"] * len(metric) if len(metric) > 1 else "min",
        points_to_evaluate=brief.known_params or None,
        # Another one for each driver: the known trials would be drawn a second time.
        seed=spec.seed + len(brief.known_params),
    )


def make_scheduler(brief: SearchDriverConfig) -> TrialScheduler:
    stopping = brief.spec.scheduler
    grace = stopping.grace_iterations
    if stopping.name is Scheduler.ASHA:
        return AsyncHyperBandScheduler(
            time_attr=TIME_ATTR,
            max_t=brief.max_iterations,
            grace_period=min(grace or brief.evaluate_every, brief.max_iterations),
            reduction_factor=stopping.reduction_factor,
        )
    if stopping.name is Scheduler.MEDIAN:
        return MedianStoppingRule(time_attr=TIME_ATTR, grace_period=grace or brief.evaluate_every)
    return FIFOScheduler()


def _make_domains(spec: SearchSpec) -> dict[str, Any]:
    return {path: make_domain(dimension) for path, dimension in spec.space.items()}


def make_domain(dimension: Dimension) -> Any:
    """Ray Tune's own word for the draw."""
    arguments = list(dimension.arguments)
    if dimension.distribution is Distribution.GRID:
        return tune.grid_search(arguments)
    if dimension.distribution is Distribution.CHOICE:
        return tune.choice(arguments)
    return getattr(tune, dimension.distribution.value)(*arguments)
