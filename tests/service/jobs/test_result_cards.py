"""Result cards: what they say of a job, that they stay equal, and when there is none."""

import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.access import signing_keys
from service.errors import Conflict, NotFound
from service.jobs import labels, metrics, records, result_cards, retention
from service.jobs.retention import ExpiredRecords
from service.specs.labels import JobLabelUpdate
from service.specs.protocol import MetricPoint, RunEnvironment, TrainingResult
from service.specs.result_card import ResultCard
from service.specs.series import MachineSeries
from service.states import CheckpointPart, Reason
from tests.support import analyses
from tests.support.core import ENVIRONMENT, START, Core, Taken, job_id_of, make_point, note

RESULT = TrainingResult(train_error=0.5, test_error=2.5, training_seconds=40.0)


def _train(core: Core, *points: MetricPoint, **fields: Any) -> Taken:
    """A job that has trained and saved, but not finished."""
    claimed = core.start(**fields)
    core.report(claimed.attempt_id, 1, environment=RunEnvironment.model_validate(ENVIRONMENT))
    core.report(
        claimed.attempt_id,
        2,
        metrics=[make_point("test/error", 10, 50.0), make_point("test/error", 20, 2.5), *points],
        checkpoints=[note(20, test_error=2.5)],
    )
    return claimed


def _finish(core: Core, *points: MetricPoint, **fields: Any) -> str:
    claimed = _train(core, *points, **fields)
    core.finish(claimed.attempt_id, result=RESULT)
    return job_id_of(claimed)


def _read(core: Core, job_id: str) -> ResultCard:
    with core.database.reading() as session:
        return result_cards.build_result_card(session, job_id)


def test_a_card_says_what_was_trained_on_what_and_with_which_result(core: Core) -> None:
    card = _read(core, _finish(core, seed=3, name="mine", tags=["a"]))
    assert card.job.network == "resnet-8-A"
    assert card.spec["seed"] == 3
    assert card.spec["recipe"]["name"] == "quick"
    assert not {"name", "tags", "priority"} & card.spec.keys()
    assert card.code.version == "0.1.0"
    assert card.code.commit == "c" * 40
    assert card.packages == {"torch": "2.15.0"}
    assert card.dataset.checksum is not None
    assert card.dataset.checksum.sha256 == "d" * 64
    assert (card.hardware.device, card.hardware.cpu_capability) == ("cpu", "AVX2")
    assert (card.result.test_error, card.result.wrong_test_images) == (2.5, 9)
    assert card.training.gpu_energy_joules is None
    (checkpoint,) = card.checkpoints
    assert (checkpoint.iteration, checkpoint.wrong_test_images) == (20, 9)
    assert checkpoint.files[CheckpointPart.WEIGHTS].sha256 == note(20).parts[0].sha256


def test_the_hash_of_the_metrics_is_that_of_their_csv(core: Core) -> None:
    """In one order on both databases, whatever the collation, and with values that are missing."""
    points = [
        make_point("train/loss", 10, 0.1),
        make_point("a_b", 5, None),
        make_point("a/b", 5, 1e-7),
        make_point("ab", 5, 3.0),
    ]
    job_id = _finish(core, *points)
    with core.database.reading() as session:
        text = "".join(metrics.iterate_csv(session, records.find_job(session, job_id)))
    time = START.timestamp()
    assert text.splitlines() == [
        "series,iteration,value,seconds,time",
        f"a/b,5,1e-07,5.0,{time + 5}",
        f"a_b,5,,5.0,{time + 5}",
        f"ab,5,3.0,5.0,{time + 5}",
        f"test/error,10,50.0,10.0,{time + 10}",
        f"test/error,20,2.5,20.0,{time + 20}",
        f"train/loss,10,0.1,10.0,{time + 10}",
    ]
    found = _read(core, job_id).metrics
    assert found is not None
    assert (found.sha256, found.points) == (hashlib.sha256(text.encode()).hexdigest(), 6)


def test_the_energy_is_the_power_over_the_training_time(core: Core) -> None:
    power = MachineSeries.GPU_POWER_WATTS
    card = _read(core, _finish(core, make_point(power, 2, 100.0), make_point(power, 5, 300.0)))
    assert card.training.gpu_energy_joules == 2 * 100.0 + 3 * 300.0


def test_an_unchanged_job_has_the_same_card_whatever_its_labels(core: Core, tmp_path: Path) -> None:
    job_id = _finish(core)
    key = signing_keys.read_or_create(tmp_path / "key")
    before = result_cards.sign_result_card(_read(core, job_id), key)
    with core.database.transaction() as session:
        update = JobLabelUpdate(name="other", tags=("b",), note="n", starred=True, archived=True)
        labels.update_job(session, job_id, update, now=core.clock.now)
    core.clock.advance(3600)
    assert result_cards.sign_result_card(_read(core, job_id), key) == before
    content = json.dumps(json.loads(before), sort_keys=True, separators=(",", ":"))
    assert len(before.splitlines()) == 1
    assert json.loads(content) == json.loads(before)


def test_metrics_that_are_no_longer_kept_have_no_hash(core: Core) -> None:
    job_id = _finish(core)
    core.clock.advance(timedelta(days=9).total_seconds())
    with core.database.transaction() as session:
        retention.delete_expired(session, ExpiredRecords((), (), metrics=[job_id], long_logs={}))
    assert _read(core, job_id).metrics is None


def test_a_job_that_is_not_complete_has_no_card_and_the_error_says_why(core: Core) -> None:
    claimed = _train(core)
    with pytest.raises(Conflict, match=r"^job \w+ is running; only a completed training has"):
        _read(core, job_id_of(claimed))
    core.finish(claimed.attempt_id, Reason.CANCELLED)
    with pytest.raises(Conflict, match=r"^job \w+ was cancelled; only a completed training has"):
        _read(core, job_id_of(claimed))


def test_a_job_without_weights_or_results_has_no_card(core: Core) -> None:
    claimed = core.run()
    core.finish(claimed.attempt_id)
    with pytest.raises(Conflict, match="has no weights with a test error"):
        _read(core, job_id_of(claimed))


def test_an_analysis_has_no_card(core: Core) -> None:
    analyses.submit_analysis(core, analyses.finish_training(core))
    with pytest.raises(Conflict, match="is an analysis; only a completed training has"):
        _read(core, analyses.finish_analysis(core))


def test_the_best_checkpoint_is_on_the_card_if_it_is_not_the_last(core: Core) -> None:
    claimed = core.start(recipe={"name": "quick", "iterations": 20, "select_by": "test"})
    core.report(claimed.attempt_id, 1, environment=RunEnvironment.model_validate(ENVIRONMENT))
    manifests = [note(10, test_error=2.0), note(20, test_error=2.5)]
    core.report(claimed.attempt_id, 2, checkpoints=manifests)
    core.finish(claimed.attempt_id, result=RESULT)
    card = _read(core, job_id_of(claimed))
    assert [(found.iteration, found.test_error) for found in card.checkpoints] == [
        (20, 2.5),
        (10, 2.0),
    ]


def test_an_unknown_job_is_not_found(core: Core) -> None:
    with pytest.raises(NotFound):
        _read(core, "0" * 16)
