"""The kernel's count of out-of-memory kills, of a cgroup or of the host."""

from pathlib import Path

import pytest

from workers.cluster.oom_kills import read_oom_kills

_VMSTAT = "nr_free_pages 1\noom_kill 7\n"
_EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"


@pytest.mark.parametrize(
    ("own", "events", "vmstat", "count"),
    [
        ("0::/job\n", _EVENTS, _VMSTAT, 2),
        ("4:memory:/job\n0::/\n", None, _VMSTAT, 7),
        ("0::/job\n", None, "nr_free_pages 1\n", 0),
        (None, None, None, 0),
    ],
)
def test_the_count_is_of_the_own_cgroup_or_else_of_the_host(
    tmp_path: Path, own: str | None, events: str | None, vmstat: str | None, count: int
) -> None:
    files = {"proc/self/cgroup": own, "cgroup/job/memory.events": events, "proc/vmstat": vmstat}
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_text(content)
    assert read_oom_kills(proc=tmp_path / "proc", cgroup=tmp_path / "cgroup") == count


def test_the_count_of_this_machine_can_be_read() -> None:
    assert read_oom_kills() >= 0
