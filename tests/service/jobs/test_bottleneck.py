"""The bottleneck of a job, from the newest value of each of its series."""

import pytest

from service.jobs.bottleneck import BottleneckCode, find_bottleneck


def _steps(load: float, compute: float, synchronize: float) -> dict[str, float | None]:
    return {
        "train/loss": 1.0,
        "step/load_seconds": load,
        "step/compute_seconds": compute,
        "step/synchronize_seconds": synchronize,
    }


@pytest.mark.parametrize(
    ("newest", "code", "share"),
    [
        (_steps(0.062, 0.038, 0.0), BottleneckCode.DATA_LOADING, "62 %"),
        (_steps(0.25, 0.75, 0.0), BottleneckCode.DATA_LOADING, "25 %"),
        (_steps(0.1, 0.5, 0.4), BottleneckCode.SYNCHRONIZATION, "40 %"),
        (_steps(0.4, 0.1, 0.5), BottleneckCode.SYNCHRONIZATION, "50 %"),
        (_steps(0.5, 0.1, 0.4), BottleneckCode.DATA_LOADING, "50 %"),
    ],
)
def test_the_longest_wait_is_named_with_its_share(
    newest: dict[str, float | None], code: BottleneckCode, share: str
) -> None:
    found = find_bottleneck(newest)
    assert found is not None
    assert found.code is code
    assert f" takes {share} of each step: " in found.message


@pytest.mark.parametrize(
    "newest",
    [
        {},
        {"train/loss": 1.0},
        _steps(0.0, 0.0, 0.0),
        _steps(0.0, 1.0, 0.0),
        _steps(0.24, 0.52, 0.24),
        _steps(0.9, 0.1, 0.0) | {"step/load_seconds": None},
    ],
)
def test_there_is_none_where_computation_dominates_or_nothing_is_known(
    newest: dict[str, float | None],
) -> None:
    assert find_bottleneck(newest) is None


@pytest.mark.parametrize(("gpu_percent", "is_found"), [(95.0, False), (60.0, True), (None, True)])
def test_a_busy_gpu_does_not_wait_for_data(gpu_percent: float | None, *, is_found: bool) -> None:
    newest = _steps(0.9, 0.1, 0.0) | {"machine/gpu_percent": gpu_percent}
    assert (find_bottleneck(newest) is not None) == is_found


def test_a_busy_gpu_may_wait_for_other_workers() -> None:
    # NCCL waits in a kernel.
    newest = _steps(0.1, 0.1, 0.8) | {"machine/gpu_percent": 100.0}
    found = find_bottleneck(newest)
    assert found is not None
    assert found.code is BottleneckCode.SYNCHRONIZATION
