"""Training in three processes, of which one set of runs serves all tests of this file."""

import json
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch

from service.states import CheckpointPart
from tests.workers.training import support
from tests.workers.training.support import (
    BATCH_NORM_RECIPE,
    STOCHASTIC,
    STOCHASTIC_RECIPE,
    ProcessRuns,
    digests,
    run,
    small_spec,
)
from workers.training import checkpoint, spawn
from workers.training.data import datasets

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def process_runs(tmp_path_factory: pytest.TempPathFactory) -> ProcessRuns:
    """The directory of support.run_in_processes, and what each of its processes reported.

    Two processes could only sum in one order; three show whether the order is kept.
    """
    directory = tmp_path_factory.mktemp("processes")
    run = partial(support.run_in_processes, directory)
    spawn.run_processes(run, num_processes=3, threads=1)
    reports = [(directory / f"rank-{rank}.json").read_text() for rank in range(3)]
    return directory, [json.loads(report) for report in reports]


def load_weights(work_dir: Path) -> dict[str, torch.Tensor]:
    files = checkpoint.find_newest(work_dir)
    assert files is not None
    return safetensors.torch.load_file(files[CheckpointPart.WEIGHTS])


def _newest_digests(directory: Path) -> dict[str, str]:
    files = checkpoint.find_newest(directory)
    assert files is not None
    return digests(files)


def test_all_processes_stop_before_the_same_step(process_runs: ProcessRuns) -> None:
    _, ranks = process_runs
    outcomes = [rank["stopped"]["outcome"] for rank in ranks]
    # A request before step 6 travels during that step and takes effect before step 7.
    assert {(outcome["stopped"], outcome["iteration"]) for outcome in outcomes} == {("cancel", 7)}
    assert ranks[0]["stopped"]["checkpoints"] == [6, 7]


def test_all_processes_reach_a_budget_after_the_same_step(process_runs: ProcessRuns) -> None:
    _, ranks = process_runs
    ends = {
        name: {
            (rank[name]["outcome"]["iteration"], rank[name]["outcome"]["stopped"]) for rank in ranks
        }
        for name in ("limited", "target")
    }
    # The limit is over before step 1, and the flag travels during it.
    assert ends == {"limited": {(2, None)}, "target": {(4, None)}}
    assert ranks[0]["limited"]["checkpoints"] == [2]


def test_resumed_processes_equal_uninterrupted_ones(process_runs: ProcessRuns) -> None:
    directory, ranks = process_runs
    assert _newest_digests(directory / "resumed") == _newest_digests(directory / "uninterrupted")
    points = {
        name: {tuple(point) for point in ranks[0][name]["points"]}
        for name in ("uninterrupted", "stopped", "resumed")
    }
    assert not points["stopped"] & points["resumed"]
    assert points["stopped"] | points["resumed"] == points["uninterrupted"]


def test_a_stop_requested_before_the_last_step_takes_no_effect(process_runs: ProcessRuns) -> None:
    directory, ranks = process_runs
    assert {rank["stopped late"]["outcome"]["stopped"] for rank in ranks} == {None}
    expected = _newest_digests(directory / "uninterrupted")
    assert _newest_digests(directory / "stopped late") == expected


def test_only_rank_0_reports(process_runs: ProcessRuns) -> None:
    _, (first, *others) = process_runs
    assert len(first["uninterrupted"]["points"]) == 24
    assert len(first["uninterrupted"]["pids"][0]) == 1 + len(others)
    for other in others:
        assert other["uninterrupted"]["points"] == other["uninterrupted"]["pids"] == []
        assert other["uninterrupted"]["outcome"]["iteration"] == 12


def test_gathered_tensors_are_in_the_order_of_the_ranks(process_runs: ProcessRuns) -> None:
    _, ranks = process_runs
    assert [rank["gathered"] for rank in ranks] == [[0, 1, 2]] * 3


def test_processes_drop_the_same_branches(process_runs: ProcessRuns, tmp_path: Path) -> None:
    """Their mean gradient is that of one process with their micro-batches."""
    directory, ranks = process_runs
    spec = small_spec(STOCHASTIC_RECIPE | {"micro_batch_size": 16}, **STOCHASTIC)
    _, single = run(spec, tmp_path)
    ours = checkpoint.load(single.files[6], spec=spec)
    files = checkpoint.find_newest(directory / "stochastic")
    assert files is not None
    theirs = checkpoint.load(files, spec=spec, is_same_job=False)
    for name, momentum in ours.momentum.items():
        torch.testing.assert_close(theirs.weights[name], ours.weights[name], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(theirs.momentum[name], momentum, rtol=1e-3, atol=1e-4)
    assert ranks[0]["stochastic"]["checkpoints"] == [3, 6]


def test_a_run_with_three_then_one_then_three_workers_trains_as_one_with_three(
    process_runs: ProcessRuns,
) -> None:
    """The same micro-batches in the same order: only sums are rounded otherwise."""
    directory, ranks = process_runs
    spec = small_spec(STOCHASTIC_RECIPE, **STOCHASTIC)
    steady, elastic = (
        checkpoint.load(files, spec=spec, is_same_job=False)
        for name in ("stochastic", "elastic")
        if (files := checkpoint.find_newest(directory / name)) is not None
    )
    assert steady.state.stretches == ((0, 3),)
    assert elastic.state.stretches == ((0, 3), (2, 1), (4, 3))
    for name, momentum in steady.momentum.items():
        torch.testing.assert_close(
            elastic.weights[name], steady.weights[name], rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(elastic.momentum[name], momentum, rtol=1e-3, atol=1e-4)
    losses = [
        {at: value for series, at, value in ranks[0][name]["points"] if series == "train/loss"}
        for name in ("stochastic", "elastic")
    ]
    assert losses[0].keys() == {3, 6}
    assert losses[1][6] == pytest.approx(losses[0][6], rel=1e-4)


def test_dropping_processes_are_resumed_bit_for_bit(process_runs: ProcessRuns) -> None:
    directory, _ = process_runs
    for kind in ("stochastic", "dropout"):
        resumed = _newest_digests(directory / f"{kind} resumed")
        assert resumed == _newest_digests(directory / kind)


def test_ranks_with_synchronized_batch_norm_train_as_one_process_does(
    process_runs: ProcessRuns, tmp_path: Path
) -> None:
    directory, _ = process_runs
    run(small_spec(BATCH_NORM_RECIPE), tmp_path)
    expected = load_weights(tmp_path)

    def distance(name: str) -> float:
        found = load_weights(directory / name)
        return max(
            float((expected[key].double() - found[key].double()).abs().max()) for key in expected
        )

    assert distance("sync_batch_norm") < 1e-4
    assert distance("local_batch_norm") > 1e-2


def test_several_ranks_keep_predictions_in_the_order_of_the_images(
    process_runs: ProcessRuns,
) -> None:
    directory, ranks = process_runs
    tensors = safetensors.torch.load_file(
        directory / "uninterrupted" / "00000012" / "predictions.safetensors"
    )
    spec = small_spec()
    expected = datasets.read_images("digits", directory, stem=spec.stem).test.labels_N
    assert tensors["labels"].tolist() == expected.tolist()
    wrong = (tensors["predicted"] != tensors["labels"]).double().mean()
    test_error = ranks[0]["uninterrupted"]["outcome"]["test_error"]
    assert 100 * float(wrong) == pytest.approx(test_error)
