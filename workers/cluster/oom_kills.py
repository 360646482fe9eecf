"""The kernel's count of processes that it killed because memory was used up."""

from pathlib import Path

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def read_oom_kills(*, proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Kills so far in this process's cgroup (version 2), or else on this host; 0 if unknown."""
    try:
        for line in (proc / "self/cgroup").read_text().splitlines():
            # Version 2 is "0::/path"; lines of version 1 name their controllers.
            if line.startswith("0::"):
                own = cgroup / line.removeprefix("0::").strip().lstrip("/")
                count = _read_counter(own / "memory.events")
                if count is not None:
                    return count
    except OSError:
        pass
    return _read_counter(proc / "vmstat") or 0


def _read_counter(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    counters = dict(line.split() for line in lines if len(line.split()) == 2)  # noqa: PLR2004
    count = counters.get("oom_kill")
    return None if count is None else int(count)
