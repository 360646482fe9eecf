import shutil
from pathlib import Path

from service.specs.protocol import CheckpointManifest, LogLine, Report
from service.states import LogLevel
from tests.support.core import make_point
from workers.reporting.spool import Spool

POINTS = [make_point(series="train/loss", iteration=i, value=0.5) for i in range(100)]
MANIFEST = CheckpointManifest(iteration=1, test_error=None, train_error=None, parts=[])


def report(*, manifest: CheckpointManifest | None = None) -> Report:
    lines = [
        LogLine.model_validate({"at": "2026-11-21T12:00:00Z", "level": level, "message": level})
        for level in LogLevel
    ]
    return Report(
        sequence=1, metrics=POINTS, logs=lines, checkpoints=[manifest] if manifest else []
    )


def all_reports(spool: Spool) -> list[Report]:
    reports = []
    while (oldest := spool.read_oldest()) is not None:
        reports.append(oldest)
        spool.acknowledge(oldest.sequence)
    return reports


def test_numbers_continue_after_the_last_one_of_the_api(tmp_path: Path) -> None:
    spool = Spool(tmp_path, last_sequence=7)
    assert [spool.append(report()), spool.append(report())] == [8, 9]


def test_a_new_process_finds_the_reports_of_the_old_one(tmp_path: Path) -> None:
    Spool(tmp_path, last_sequence=0).append(report(manifest=MANIFEST))
    (tmp_path / "00000002.tmp").write_text("half a rep")

    found = Spool(tmp_path, last_sequence=0)

    assert found.append(report()) == 2
    assert [report.checkpoints for report in all_reports(found)] == [[MANIFEST], []]
    assert list(tmp_path.iterdir()) == []


def test_acknowledged_reports_are_not_found_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, last_sequence=0)
    spool.append(report())
    spool.append(report())

    assert [report.sequence for report in all_reports(Spool(tmp_path, last_sequence=1))] == [2]


def test_a_damaged_file_loses_its_content_but_keeps_its_number(tmp_path: Path) -> None:
    spool = Spool(tmp_path, last_sequence=0)
    spool.append(report())
    (tmp_path / "00000001.json").write_text("{")

    assert spool.read_oldest() == Report(sequence=1)


def test_beyond_the_limit_the_oldest_reports_lose_metrics_and_info_lines(tmp_path: Path) -> None:
    spool = Spool(tmp_path, last_sequence=0, limit_bytes=20_000)
    for _ in range(10):
        spool.append(report(manifest=MANIFEST))

    assert spool.size_bytes <= 20_000
    kept = all_reports(spool)
    assert [report.sequence for report in kept] == list(range(1, 11))
    assert all(report.checkpoints == [MANIFEST] for report in kept)
    assert kept[0].metrics == []
    assert [line.level for line in kept[0].logs] == [LogLevel.WARNING, LogLevel.ERROR]
    assert kept[-1].metrics == POINTS


def test_reports_stay_in_memory_if_the_disk_accepts_none(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", last_sequence=0)
    shutil.rmtree(tmp_path / "spool")

    spool.append(report())

    assert [report.metrics for report in all_reports(spool)] == [POINTS]
    assert spool.is_empty


def test_renumbered_reports_follow_the_given_number(tmp_path: Path) -> None:
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
    assert [report.sequence for report in all_reports(spool)] == [10, 11, 12, 13]
