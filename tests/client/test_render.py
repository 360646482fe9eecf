"""Tables on a narrow terminal: a line per row, and every id complete."""

import io
from datetime import UTC, datetime

import msgspec
import pytest
from rich.console import Console, RenderableType

from deploy import demo
from resnetd import (
    Attempt,
    Bottleneck,
    BottleneckCode,
    Checkpoint,
    Dataset,
    DatasetOrigin,
    Envelope,
    EnvelopeVerdict,
    Importance,
    Job,
    JobState,
    QueueStatus,
    Reason,
    Search,
    SearchState,
    Series,
    TrainingResult,
    Trial,
    WaitingJob,
    WaitReason,
    Webhook,
)
from resnetd.cli import render
from resnetd.models import (
    AnalysisResult,
    AttemptState,
    Delivery,
    DeliveryState,
    EventKind,
    ResultTable,
)

WIDTH = 80
ID, OTHER = "0f3k000000000001", "0f3k000000000002"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DATASET = f"folder:{40 * 'x'}"
LONG = "a rather long name of what a person trained on a Friday evening before the deadline"
URL = "https://hooks.example.org/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"

NO_ENVELOPE = Envelope(verdict=EnvelopeVerdict.UNKNOWN, message="unknown: has no jobs", looks=20)
JOB = Job(
    id=ID,
    name=LONG,
    network="resnet-110-A",
    state=JobState.SUCCEEDED,
    spec={},
    created_at=NOW,
    parameters=1_730_714,
    result=TrainingResult(train_error=0.5, test_error=2.5, training_seconds=40.0),
)
LIMITED = msgspec.structs.replace(
    JOB, reason=Reason.BUDGET_REACHED, message="used up its max_seconds of 6"
)
TRIAL = Trial(
    number=10_000,
    job_id=ID,
    state=JobState.SUCCEEDED,
    params={f"recipe.warmup_learning_rate_{number}": 0.0123 for number in range(6)},
    values={"validation/error": 12.5, "seconds": 1234.5},
    rank=0,
)
WAITING = WaitingJob(
    job_id=ID,
    name=LONG,
    state=JobState.QUEUED,
    waiting=QueueStatus(WaitReason.RESOURCES, LONG, position=1, starts_p50=NOW),
)
TABLES: dict[str, RenderableType] = {
    "jobs": render.jobs([JOB], now=NOW, has_bars=True),
    "attempts": render.attempts_table(
        [
            Attempt(
                number=1,
                state=AttemptState.ENDED,
                reason=Reason.HEARTBEAT_TIMEOUT,
                started_at=NOW,
                ended_at=NOW,
                message=LONG,
            )
        ]
    ),
    "checkpoints": render.checkpoints_table(
        [
            Checkpoint(
                id=ID,
                job_id=OTHER,
                attempt=100,
                iteration=600_000,
                created_at=NOW,
                size_bytes=123_456_789,
                test_error=12.34,
                train_error=12.34,
            )
        ]
    ),
    "searches": render.searches(
        [Search(id=ID, name=LONG, state=SearchState.RUNNING, spec={}, created_at=NOW)]
    ),
    "trials": render.trials([TRIAL]),
    "importance": render.importance(
        {"validation/error": Importance(trials=9, shares={LONG: 0.25})}
    ),
    "datasets": render.datasets(
        [
            Dataset(
                name=DATASET,
                title=LONG,
                origin=DatasetOrigin.FOLDER,
                classes=1_000,
                train_images=1_281_167,
                test_images=50_000,
                default_recipe="paper-imagenet",
                available=True,
            )
        ]
    ),
    "queue": render.queue([WAITING]),
    "webhooks": render.webhooks(
        [Webhook(id=ID, url=URL, states=(JobState.SUCCEEDED, JobState.FAILED), user="ann")]
    ),
    "deliveries": render.deliveries(
        [
            Delivery(
                id=ID,
                state=DeliveryState.FAILED,
                payload={"type": str(EventKind.STATE)},
                tries=12,
                error=LONG,
                created_at=NOW,
            )
        ]
    ),
    "metrics": render.metrics(
        {
            "validation/error": Series(
                iterations=(600_000,), values=(2.5,), seconds=(40.0,), times=(NOW.timestamp(),)
            )
        }
    ),
}


def _lines(renderable: RenderableType, *, width: int = WIDTH) -> list[str]:
    console = Console(file=io.StringIO(), color_system=None, width=width)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_narrow_terminal_has_a_line_per_row_and_complete_ids(name: str) -> None:
    header, row = _lines(TABLES[name])
    assert len(header.rstrip()) <= WIDTH
    has_id = any(column in header.split() for column in ("ID", "JOB", "CHECKPOINT"))
    assert (ID in row) == has_id
    assert (DATASET in row) == (name == "datasets")


def test_a_job_is_shown_with_its_bottleneck_in_complete_words() -> None:
    found = Bottleneck(BottleneckCode.DATA_LOADING, f"Data loading takes 62 % of each step: {LONG}")
    shown = msgspec.structs.replace(JOB, bottleneck=found)
    (sheet,) = render.job(shown, attempts=[], checkpoints=[], envelope=NO_ENVELOPE, now=NOW)
    lines = [line.strip() for line in _lines(sheet, width=100)]
    text = " ".join(lines)
    assert "bottleneck" in text
    assert found.message in text


def test_a_job_is_shown_with_the_verdict_on_its_curve_if_there_is_one() -> None:
    found = Envelope(verdict=EnvelopeVerdict.LEFT, message="leaves the range", looks=20)
    texts = [
        " ".join(_lines(*render.job(JOB, attempts=[], checkpoints=[], envelope=shown, now=NOW)))
        for shown in (found, NO_ENVELOPE)
    ]
    assert "leaves the range" in texts[0]
    assert "curve" not in texts[1]


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_wide_terminal_cuts_nothing(name: str) -> None:
    assert "…" not in "".join(_lines(TABLES[name], width=400))


def test_the_table_of_the_demo_fits_into_80_columns() -> None:
    table = demo._table([JOB])
    lines = _lines(table)
    row = next(line for line in lines if "1,730,714" in line)
    assert max(map(len, lines)) <= WIDTH
    assert "40" in row


def test_a_path_of_the_demo_is_not_broken() -> None:
    console = Console(file=io.StringIO(), width=WIDTH)
    path = "/".join(20 * ["directory"])
    demo._print(console, f"The logs are in {path}")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == f"The logs are in {path}\n"


def test_the_outcome_of_a_job_that_reached_its_budget_says_so() -> None:
    assert render.outcome(LIMITED).endswith(": budget-reached: used up its max_seconds of 6")


def test_names_of_checkpoints_have_a_column_where_there_are_some_and_each_model_once() -> None:
    row = Checkpoint(
        id=ID, job_id=OTHER, attempt=1, iteration=600, created_at=NOW, size_bytes=1, test_error=1.0
    )
    assert "NAMES" not in _lines(render.checkpoints_table([row]))[0]
    names = ("resnet/course@2", "resnet/course@production", "other@1")
    named = msgspec.structs.replace(row, names=names)
    shown = _lines(render.checkpoints_table([row, named]), width=200)
    assert shown[0].split()[-1] == "NAMES"
    assert shown[2].strip().endswith("resnet/course@2,production other@1")


def test_a_long_table_of_a_result_ends_with_how_to_get_the_rest() -> None:
    table = ResultTable("images", ("image",), tuple((f"{index}.jpg",) for index in range(1_502)))
    *_, rest, _ = render.analysis(AnalysisResult({"images": 1_502}, (table,)))
    assert rest == "the first 500 of 1,502; all: resnetd analysis ID --csv --table images"
