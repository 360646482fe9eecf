"""Jobs are found and ordered by any field, alike on both databases."""

import pytest

from service.errors import InvalidInput
from service.jobs import records
from service.jobs.records import JobFilter
from service.specs.protocol import TrainingResult
from tests.support.core import Core


@pytest.fixture
def named(core: Core) -> Core:
    """Jobs `a`, `b` and `c`; `b` has succeeded with an error of 5 %, `c` with one of 12.5 %."""
    for name, error in (("b", 5.0), ("c", 12.5)):
        claimed = core.start(name=name)
        result = TrainingResult(train_error=0.0, test_error=error, training_seconds=1.0)
        core.finish(claimed.attempt_id, result=result)
    core.submit(name="a", depth=20, recipe={"batch_size": 64})
    return core


def _names(core: Core, *where: str, sort: str | None = None, text: str | None = None) -> list[str]:
    with core.database.reading() as session:
        wanted = JobFilter(where=where, text=text)
        page = records.list_page(session, wanted, limit=10, sort=sort or "name")
        return [job.name for job in page.rows]


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("depth:20", "a"),
        ("depth:8,20", "abc"),
        ("depth!=20", "bc"),
        ("recipe.batch_size<100", "a"),
        ("shortcut:A", "abc"),
        ("shortcut:5", ""),
        ("preemptible:false", "abc"),
        ("user:ann", "abc"),
        ("state:succeeded", "bc"),
        ("created_at>=2020-01-01T00:00:00Z", "abc"),
        ("created_at<2020-01-01", ""),
        ("result.test_error<=5", "b"),
        ("result.test_error!=5", "ac"),
        ("starred:true", ""),
        ("metrics.train/loss>0", ""),
        ("recipe.warmup_learning_rate:0.5", ""),
    ],
)
def test_a_condition_selects_jobs_by_a_field(named: Core, condition: str, names: str) -> None:
    assert _names(named, condition) == list(names)


def test_all_conditions_hold(named: Core) -> None:
    assert _names(named, "depth:8", "result.test_error>6") == ["c"]


@pytest.mark.parametrize(
    "condition",
    ["depth", "depth:x", "nothing:1", "recipe:1", "created_at>today", "starred:yes", "a..b:1", ":"],
)
def test_a_condition_that_cannot_be_met_names_what_is_wrong(core: Core, condition: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        _names(core, condition)
    assert caught.value.field_errors[0].pointer == "/where"


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("name", "abc"),
        ("-name", "cba"),
        ("result.test_error", "bca"),
        ("-result.test_error", "cba"),
        ("-recipe.batch_size", "cba"),
        ("created_at", "bca"),
    ],
)
def test_jobs_are_sorted_by_a_field_and_those_without_it_come_last(
    named: Core, sort: str, names: str
) -> None:
    assert _names(named, sort=sort) == list(names)


def test_a_sorted_list_is_read_in_pages(named: Core) -> None:
    with named.database.reading() as session:
        first = records.list_page(session, JobFilter(), limit=2, sort="name")
        rest = records.list_page(session, JobFilter(), limit=2, sort="name", token=first.next_token)
    assert [job.name for job in [*first.rows, *rest.rows]] == ["a", "b", "c"]
    assert rest.next_token is None


def test_words_are_found_in_names_notes_and_tags(core: Core) -> None:
    core.submit(name="Cosine 100%", tags=["lecture-3"])
    core.submit(name="steps")
    assert _names(core, text="COSINE lecture") == ["Cosine 100%"]
    assert _names(core, text="100%") == ["Cosine 100%"]
    assert _names(core, text="cosine lecture-4") == []
