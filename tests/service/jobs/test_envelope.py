"""Whether a curve is normal: the interval, its false alarms, its words, and which jobs count."""

import math
import random
from collections.abc import Callable

import pytest

from service.jobs import envelope
from service.jobs.envelope import Envelope, EnvelopeVerdict, compare_curve
from service.specs.protocol import RunEnvironment
from service.states import Reason
from tests.support.core import ENVIRONMENT, Core, job_id_of, make_point

LOOKS = 20
Curve = dict[int, float | None]


def _noise(generator: random.Random) -> float:
    return generator.gauss(0.0, 1.0)


def _heavy_noise(generator: random.Random) -> float:
    """Student's t with three degrees of freedom: one run in a hundred is far away."""
    chi = sum(generator.gauss(0.0, 1.0) ** 2 for _ in range(3))
    return generator.gauss(0.0, 1.0) / math.sqrt(chi / 3)


def _draw_curve(
    generator: random.Random, noise: Callable[[random.Random], float], correlation: float
) -> Curve:
    """A falling error whose deviation persists from one evaluation to the next."""
    curve: Curve = {}
    state = noise(generator)
    for look in range(1, LOOKS + 1):
        state = correlation * state + (1 - correlation**2) ** 0.5 * noise(generator)
        spread = 3.0 / look**0.5
        curve[100 * look] = round(8 + 60 / look + spread * state, 2)
    return curve


@pytest.mark.parametrize("noise", [_noise, _heavy_noise])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
@pytest.mark.parametrize("jobs", [3, 8])
def test_at_most_one_normal_job_in_twenty_leaves_its_envelope(
    noise: Callable[[random.Random], float], correlation: float, jobs: int
) -> None:
    """Over all evaluations of a training together, also with errors that have heavy tails."""
    generator = random.Random(1)
    trials = 200
    alarms = 0
    for _ in range(trials):
        own, *others = (_draw_curve(generator, noise, correlation) for _ in range(jobs + 1))
        by_id = {str(number): curve for number, curve in enumerate(others)}
        found = compare_curve(own, by_id, looks=LOOKS, resolution=0.01)
        alarms += found.verdict is EnvelopeVerdict.LEFT
    # At most 5 % plus two standard deviations of the simulation.
    assert alarms <= trials * 0.05 + 2 * (trials * 0.05 * 0.95) ** 0.5


def test_without_the_correction_for_the_looks_there_would_be_more_false_alarms() -> None:
    """The simulation notices a rule that is wrong."""
    generator = random.Random(1)
    alarms = 0
    for _ in range(200):
        own, *others = (_draw_curve(generator, _noise, 0.9) for _ in range(9))
        by_id = {str(number): curve for number, curve in enumerate(others)}
        found = compare_curve(own, by_id, looks=1, resolution=0.01)
        alarms += found.verdict is EnvelopeVerdict.LEFT
    assert alarms > 20


OTHERS: dict[str, Curve] = {
    "a": {10: 50.0, 20: 20.0, 30: 8.0},
    "b": {10: 52.0, 20: 21.0, 30: 8.4},
    "c": {10: 48.0, 20: 19.0, 30: 8.2},
    "d": {10: 51.0, 20: 20.5, 30: 8.1},
}


def _compare(own: Curve, others: dict[str, Curve] = OTHERS) -> Envelope:
    return compare_curve(own, others, looks=3, resolution=0.1)


def test_the_first_evaluation_outside_and_the_distance_are_named() -> None:
    found = _compare({10: 49.0, 20: 40.0, 30: 30.0})
    assert found.verdict is EnvelopeVerdict.LEFT
    assert found.departure is not None
    assert found.departure.iteration == 20
    high = found.points[1].high
    assert found.departure.points == pytest.approx(40.0 - high)
    assert found.message == (
        "leaves the range of 4 completed jobs with other seeds at iteration 20: its test error of "
        f"40.00 % is {40 - high:.2f} points above the expected {high:.2f} %; it is outside in 2 of "
        "3 evaluations"
    )


def test_a_curve_that_is_better_than_expected_is_not_normal_either() -> None:
    found = _compare({10: 1.0, 20: 1.0})
    assert "points below the expected" in found.message


def test_a_single_error_that_is_far_off_is_normal_unless_it_is_the_last() -> None:
    assert _compare({10: 50.0, 20: 90.0, 30: 8.2}).verdict is EnvelopeVerdict.WITHIN
    assert _compare({10: 50.0, 20: 90.0}).verdict is EnvelopeVerdict.WITHIN
    found = _compare({10: 50.0, 20: 20.0, 30: 90.0})
    assert found.departure is not None
    assert found.departure.iteration == 30
    assert not found.message.endswith("evaluations")


def test_an_error_that_is_not_finite_leaves_the_envelope() -> None:
    found = _compare({10: 50.0, 20: None})
    assert found.departure is not None
    assert (found.departure.iteration, found.departure.points) == (20, None)
    assert found.message.endswith("at iteration 20: its test error is not finite")


def test_a_running_job_is_normal_so_far() -> None:
    found = _compare({10: 49.5})
    assert found.message == (
        "normal: within the range of 4 completed jobs with other seeds in 1 evaluation"
    )
    assert [point.value for point in found.points] == [49.5, None, None]


def test_equal_errors_of_few_jobs_allow_another_image() -> None:
    equal: dict[str, Curve] = {name: {10: 90.0} for name in "abc"}
    for value, verdict in ((90.1, EnvelopeVerdict.WITHIN), (50.0, EnvelopeVerdict.LEFT)):
        found = compare_curve({10: value}, equal, looks=1, resolution=0.1)
        assert found.verdict is verdict


def _train(core: Core, *errors: float, reason: Reason | None = Reason.COMPLETED, seed: int) -> str:
    """A job with an evaluation every ten iterations; without a reason it runs."""
    claimed = core.start(seed=seed)
    core.report(claimed.attempt_id, 1, environment=RunEnvironment.model_validate(ENVIRONMENT))
    points = [make_point("test/error", 10 * (n + 1), error) for n, error in enumerate(errors)]
    core.report(claimed.attempt_id, 2, metrics=points)
    if reason is not None:
        core.finish(claimed.attempt_id, reason)
    return job_id_of(claimed)


def _read(core: Core, job_id: str) -> Envelope:
    with core.database.reading() as session:
        return envelope.read_envelope(session, job_id)


def test_a_job_is_held_beside_completed_jobs_of_other_seeds(core: Core) -> None:
    _train(core, 1.0, seed=1)
    repeated = _train(core, 50.0, 20.0, 8.0, seed=1)
    others = [repeated, _train(core, 51.0, 21.0, 9.0, seed=2)]
    _train(core, 1.0, seed=3, reason=Reason.CANCELLED)
    _train(core, 1.0, seed=9)
    running = _train(core, 50.5, 90.0, 90.0, seed=9, reason=None)
    assert _read(core, running).message == (
        "unknown: needs 3 completed jobs that differ only in the seed; has 2"
    )
    others.append(_train(core, 49.0, 19.0, 8.5, seed=4))
    found = _read(core, running)
    assert sorted(found.job_ids) == sorted(others)
    assert found.departure is not None
    assert found.departure.iteration == 20


def test_a_job_with_another_recipe_counts_for_none(core: Core) -> None:
    for seed in range(3):
        _train(core, 50.0 + seed, seed=seed)
    claimed = core.start(recipe={"name": "quick", "batch_size": 32})
    assert _read(core, job_id_of(claimed)).job_ids == []


def test_a_job_without_an_evaluation_has_no_verdict_and_the_interval_ahead(core: Core) -> None:
    for seed in range(3):
        _train(core, 50.0 + seed, seed=seed)
    found = _read(core, core.submit(seed=7))
    assert found.message == (
        "unknown: has no test error yet to compare with 3 completed jobs with other seeds"
    )
    assert [point.iteration for point in found.points] == [10]
