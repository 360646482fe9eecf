"""Jobs alike in everything but some fields, and the statistics over each group."""

import math
import random
from typing import Any

import pytest
from scipy import stats

from service.errors import InvalidInput
from service.jobs import groups, records
from service.jobs.groups import GroupKey, JobGroup
from service.jobs.metric_axes import MetricAxis
from service.specs.protocol import TrainingResult
from tests.support.core import Core, Taken, job_id_of, make_point


def _group(core: Core, ids: list[str], *by: str) -> list[tuple[dict[str, Any], list[str]]]:
    with core.database.reading() as session:
        found = GroupKey(by or ["-seed"]).group([records.find_job(session, i) for i in ids])
        return [(group.fields, [job.id for job in group.jobs]) for group in found]


def _report(core: Core, points: dict[int, float], **fields: Any) -> str:
    claimed = core.run(**fields)
    made = [make_point("train/loss", iteration, value) for iteration, value in points.items()]
    core.report(claimed.attempt_id, 2, metrics=made)
    _finish(core, claimed, test_error=min(points.values()))
    return job_id_of(claimed)


def _finish(core: Core, claimed: Taken, *, test_error: float | None) -> None:
    result = TrainingResult(train_error=None, test_error=test_error, training_seconds=10.0)
    core.finish(claimed.attempt_id, result=result)


def _read(
    core: Core, ids: list[str], *, buckets: int = 1000, start: float = 0, stop: float | None = None
) -> groups.GroupSeries:
    with core.database.reading() as session:
        group = JobGroup({}, [records.find_job(session, job_id) for job_id in ids])
        found = groups.read_series(
            session,
            group,
            ["train/loss"],
            axis=MetricAxis.ITERATION,
            start=start,
            stop=stop,
            buckets=buckets,
        )
    return found["train/loss"]


def test_jobs_that_differ_in_the_seed_only_are_a_group(core: Core) -> None:
    first, second = (core.submit(seed=seed) for seed in (1, 2))
    other = core.submit(seed=1, recipe={"name": "quick", "batch_size": 64})
    assert _group(core, [first, other, second]) == [
        ({"recipe.batch_size": 128}, [first, second]),
        ({"recipe.batch_size": 64}, [other]),
    ]


def test_fields_that_change_nothing_in_the_training_split_no_group(core: Core) -> None:
    ids = [core.submit(name="one", tags=["a"]), core.submit(priority=60, max_restarts=5)]
    ids.append(core.submit(retention={"keep_best": 3}, time_limit_minutes=10))
    assert _group(core, ids) == [({}, ids)]


def test_groups_may_be_by_any_field_of_the_spec(core: Core) -> None:
    first, second, third = (
        core.submit(depth=depth, seed=seed, shortcut=shortcut)
        for depth, seed, shortcut in ((8, 1, "A"), (8, 2, "none"), (14, 1, "A"))
    )
    ids = [first, second, third]
    assert _group(core, ids, "depth") == [
        ({"depth": 8}, [first, second]),
        ({"depth": 14}, [third]),
    ]
    assert _group(core, ids, "-depth", "-seed") == [
        ({"shortcut": "A"}, [first, third]),
        ({"shortcut": "none"}, [second]),
    ]


def test_a_field_with_fields_of_its_own_includes_all_of_them(core: Core) -> None:
    first = core.submit()
    second = core.submit(recipe={"name": "quick", "batch_size": 64, "learning_rate": 0.05})
    assert _group(core, [first, second], "-recipe") == [({}, [first, second])]


def test_each_job_may_be_a_group_of_its_own(core: Core) -> None:
    ids = [core.submit(seed=1), core.submit(seed=1), core.submit(seed=2)]
    assert _group(core, ids, "id") == [
        ({"seed": seed}, [job_id]) for seed, job_id in zip((1, 1, 2), ids, strict=True)
    ]


@pytest.mark.parametrize("by", [["-sead"], ["depth", "-seed"], ["result.test_error"], [""]])
def test_an_unknown_field_is_refused(by: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        GroupKey(by)
    assert refused.value.field_errors[0].pointer == "/by"


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_the_interval_is_that_of_a_t_test(n: int) -> None:
    random.seed(n)
    values = [random.gauss(7.0, 2.0) for _ in range(n)]
    found = groups.describe_values([*values, None, math.nan])
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert found is not None
    assert (found.n, found.min, found.max) == (n, min(values), max(values))
    assert (found.ci_low, found.ci_high) == pytest.approx((expected.low, expected.high))


def test_one_value_has_no_deviation_and_no_interval() -> None:
    found = groups.describe_values([3.0])
    assert found is not None
    assert (found.n, found.mean, found.std, found.ci_low, found.ci_high) == (1, 3, None, None, None)


def test_no_value_has_no_statistics() -> None:
    assert groups.describe_values([None, math.inf]) is None


def test_results_are_those_of_the_jobs_that_have_one(core: Core) -> None:
    ids = [_report(core, {1: value}, seed=seed) for seed, value in enumerate((4.0, 6.0))]
    ids.append(core.submit(seed=7))
    with core.database.reading() as session:
        group = JobGroup({}, [records.find_job(session, job_id) for job_id in ids])
        found = groups.read_results(group)
    assert (found["test_error"].n, found["test_error"].mean) == (2, 5.0)
    assert found["test_error"].std == pytest.approx(math.sqrt(2))
    assert "train_error" not in found


def test_each_bucket_of_a_series_is_over_all_points_of_all_jobs(core: Core) -> None:
    ids = [
        _report(core, {0: 1.0, 1: 9.0, 2: 2.0, 3: 4.0}, seed=1),
        _report(core, {0: 3.0, 1: 3.0, 2: 5.0, 3: 5.0}, seed=2),
    ]
    found = _read(core, ids, buckets=2)
    assert (found.start, found.n, found.x) == ([0, 2], [2, 2], [1.0, 3.0])
    # The means of the buckets are 5 and 3, then 3 and 5.
    assert found.mean == [4.0, 4.0]
    assert found.std == pytest.approx([math.sqrt(2)] * 2)
    assert (found.min, found.max) == ([1.0, 2.0], [9.0, 5.0])


def test_a_bucket_counts_the_jobs_that_have_points_in_it(core: Core) -> None:
    ids = [
        _report(core, {0: 1.0, 1: 1.0}, seed=1),
        _report(core, {0: 3.0, 1: 3.0, 2: 3.0, 3: 3.0}, seed=2),
    ]
    found = _read(core, ids)
    assert found.n == [2, 2, 1, 1]
    assert found.mean == [2.0, 2.0, 3.0, 3.0]
    assert found.std[2:] == [None, None]


def test_a_range_in_the_units_of_the_axis_reads_finer_buckets(core: Core) -> None:
    ids = [_report(core, {n: float(n) for n in range(8)}, seed=1)]
    assert _read(core, ids, buckets=4).start == [0, 2, 4, 6]
    assert _read(core, ids, buckets=4, start=2, stop=5).start == [2, 3, 4, 5]
