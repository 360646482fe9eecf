"""What users write on jobs after their submission."""

from service.jobs import labels, records
from service.jobs.records import JobFilter
from service.specs.labels import JobLabelUpdate
from tests.support.core import Core, cancelled


def _update(core: Core, job_id: str, update: JobLabelUpdate) -> None:
    with core.database.transaction() as session:
        labels.update_job(session, job_id, update, now=core.clock.now)


def _ids(core: Core, wanted: JobFilter) -> list[str]:
    with core.database.reading() as session:
        return [job.id for job in records.list_page(session, wanted, limit=10).rows]


def test_a_job_that_has_ended_gets_a_name_tags_and_a_note(core: Core) -> None:
    job_id = cancelled(core, tags=["old"])
    update = JobLabelUpdate(name="best", tags=("new", "seed-1"), note="first line\nsecond")
    _update(core, job_id, update)
    job = core.job(job_id)
    assert (job.name, job.spec["name"], job.note) == ("best", "best", "first line\nsecond")
    assert job.spec["tags"] == ["new", "seed-1"]
    assert _ids(core, JobFilter(tags=["old"])) == []
    assert _ids(core, JobFilter(tags=["new", "seed-1"])) == [job_id]


def test_a_change_is_an_event_that_names_the_fields(core: Core) -> None:
    job_id = core.submit(name="a")
    _update(core, job_id, JobLabelUpdate(name="b", starred=True))
    event = core.events(job_id)[-1]
    assert event.data == {
        "name": {"from": "a", "to": "b"},
        "starred": {"from": False, "to": True},
    }


def test_an_update_that_changes_nothing_is_no_event(core: Core) -> None:
    job_id = core.submit(name="a", tags=["t"])
    before = len(core.events(job_id))
    _update(core, job_id, JobLabelUpdate(name="a", tags=("t",), starred=False))
    assert len(core.events(job_id)) == before


def test_lists_leave_out_archived_jobs(core: Core) -> None:
    kept, archived = core.submit(), core.submit()
    _update(core, archived, JobLabelUpdate(archived=True))
    assert _ids(core, JobFilter()) == [kept]
    assert _ids(core, JobFilter(archived=True)) == [archived]
    assert _ids(core, JobFilter(id_prefix=archived)) == [archived]
