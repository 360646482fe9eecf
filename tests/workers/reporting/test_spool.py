import shutil
from pathlib import Path

from service.specs.protocol import CheckpointManifest, LogLine, MetricPoint, Report
from service.states import LogLevel
from workers.reporting.spool import Spool

POINTS = [MetricPoint(series="train/loss", iteration=i, value=0.5) for i in range(100)]
NOTE = CheckpointManifest(iteration=1, test_error=None, train_error=None, parts=[])


def report(*, note: CheckpointManifest | None = None) -> Report:
    lines = [
        LogLine.model_validate({"at": "2026-11-21T12:00:00Z", "level": level, "message": level})
        for level in LogLevel
    ]
    return Report(sequence=1, metrics=POINTS, logs=lines, checkpoints=[note] if note else [])


def everything_in(spool: Spool) -> list[Report]:
    reports = []
    while (oldest := spool.oldest()) is not None:
        reports.append(oldest)
        spool.acknowledge(oldest.sequence)
    return reports


def test_numbers_go_on_from_the_last_one_the_api_has(tmp_path: Path) -> None:
    spool = Spool(tmp_path, last_sequence=7)
    assert [spool.append(report()), spool.append(report())] == [8, 9]


def test_a_new_process_finds_what_the_old_one_left(tmp_path: Path) -> None:
    Spool(tmp_path, last_sequence=0).append(report(note=NOTE))
    (tmp_path / "00000002.tmp").write_text("half a rep")

    found = Spool(tmp_path, last_sequence=0)

    assert found.append(report()) == 2
    assert [each.checkpoints for each in everything_in(found)] == [[NOTE], []]
    assert list(tmp_path.iterdir()) == []


def test_what_the_api_has_already_is_not_found_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, last_sequence=0)
    spool.append(report())
    spool.append(report())

    assert [each.sequence for each in everything_in(Spool(tmp_path, last_sequence=1))] == [2]


def test_a_damaged_file_costs_its_content_and_not_its_number(tmp_path: Path) -> None:
    spool = Spool(tmp_path, last_sequence=0)
    spool.append(report())
    (tmp_path / "00000001.json").write_text("{")

    assert spool.oldest() == Report(sequence=1)


def test_beyond_the_limit_the_oldest_lose_points_and_chatter_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path, last_sequence=0, limit_bytes=20_000)
    for _ in range(10):
        spool.append(report(note=NOTE))

    assert spool.size_bytes <= 20_000
    kept = everything_in(spool)
    assert [each.sequence for each in kept] == list(range(1, 11))
    assert all(each.checkpoints == [NOTE] for each in kept)
    assert kept[0].metrics == []
    assert [line.level for line in kept[0].logs] == [LogLevel.WARNING, LogLevel.ERROR]
    assert kept[-1].metrics == POINTS


def test_a_disk_that_takes_nothing_is_made_up_for_by_memory(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", last_sequence=0)
    shutil.rmtree(tmp_path / "spool")

    spool.append(report())

    assert [each.metrics for each in everything_in(spool)] == [POINTS]
    assert spool.is_empty


def test_renumbered_reports_follow_on_the_number_given(tmp_path: Path) -> None:
    spool = Spool(tmp_path, last_sequence=10)
    for _ in range(3):
        spool.append(report())

    spool.renumber(after=9)

    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "00000010.json",
        "00000011.json",
        "00000012.json",
    ]
    assert spool.append(report()) == 13
    assert [each.sequence for each in everything_in(spool)] == [10, 11, 12, 13]
