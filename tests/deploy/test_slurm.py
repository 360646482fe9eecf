"""deploy/slurm: the scripts start each process of the service in an allocation, with fake tools."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import Settings
from tests.deploy.composed import REPOSITORY, compose_file
from tests.support.fake_api import eventually

SCRIPTS = REPOSITORY / "deploy" / "slurm"
ADDRESSES = {"n1": "10.0.0.1", "n2": "10.0.0.2"}
# Each fake writes its name, arguments and variables to a file of its own, and runs until SIGTERM.
RECORD = """
log=$RECORDS/$(date +%s%N)-$$
{ echo "$(basename "$0") $*"; env; } > "$log.new"
mv "$log.new" "$log"
"""
SERVICE = f"#!/bin/sh\n{RECORD}trap 'echo $(basename \"$0\") >> $RECORDS/../ended; exit 0' TERM\n"
SERVICE += "while :; do sleep 0.05; done\n"
FAKES = {
    "scontrol": """#!/bin/sh
case "$2" in
  n1) echo "n1: 10.0.0.1:6818" ;;
  n2) echo "n2: 10.0.0.2:6818" ;;
  *) printf 'n1\\nn2\\n' ;;
esac
""",
    # The options that begin with -- are srun's; it passes on the signal, as srun does.
    "srun": """#!/bin/bash
while [[ $1 == --* ]]; do
  [[ $1 == --nodelist=* ]] && export HOST=${1#--nodelist=}
  echo "$1" >> "$RECORDS/../options"
  shift
done
"$@" &
trap 'kill -TERM $!; wait $!; exit' TERM
wait $!
""",
    "ip": '#!/bin/sh\necho "2: eth7    inet 10.0.0.$(echo $HOST | tr -d n)/24 scope global eth7"\n',
    "ray": SERVICE,
    "resnetd-api": SERVICE,
    "resnetd-worker": SERVICE,
    "resnetd-server": f"#!/bin/sh\n{RECORD}",
}


@pytest.fixture
def allocation(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch script on the first of two nodes."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, text in FAKES.items():
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    (tmp_path / "records").mkdir()
    return {
        "PATH": os.defpath,
        "RECORDS": str(tmp_path / "records"),
        "RESNETD_HOME": str(tmp_path),
        "RESNETD_VAR_DIR": str(tmp_path / "var"),
        "RESNETD_WORK_DIR": str(tmp_path / "work"),
        "RESNETD_SLURM_SCRIPTS": str(SCRIPTS),
        "RESTART_SECONDS": "0.1",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "2",
    }


def _read_records(allocation: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    """Command and environment of what was started."""
    found = []
    for path in sorted(Path(allocation["RECORDS"]).iterdir()):
        if path.suffix != ".new":
            command, *lines = path.read_text().splitlines()
            found.append((command, dict(line.split("=", 1) for line in lines if "=" in line)))
    return found


def test_the_scripts_have_no_fault_that_a_shell_or_shellcheck_finds() -> None:
    paths = sorted(SCRIPTS.glob("*.sh"))
    assert [path.name for path in paths] == ["ray_node.sh", "service.sh"]
    for path in paths:
        assert path.stat().st_mode & stat.S_IXUSR
        subprocess.run(["bash", "-n", str(path)], check=True)
    shellcheck = Path(sys.executable).parent / "shellcheck"
    checked = subprocess.run([str(shellcheck), *map(str, paths)], capture_output=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, b"")


def test_an_allocation_runs_the_service_and_ray_and_stops_the_service_first(
    allocation: dict[str, str], tmp_path: Path
) -> None:
    with subprocess.Popen(
        ["bash", str(SCRIPTS / "service.sh")], env=allocation, stdout=subprocess.PIPE, text=True
    ) as script:
        eventually(lambda: len(_read_records(allocation)) == 6)
        script.send_signal(signal.SIGTERM)
        assert script.wait(10.0) == 0
        assert script.stdout is not None
        assert "http://10.0.0.1:8000" in script.stdout.read()
    records = dict(_read_records(allocation))
    first, *_ = _read_records(allocation)
    assert first[0] == "resnetd-server migrate"
    assert {"resnetd-api ", "resnetd-worker dispatcher"} <= set(records)
    assert {records[name]["HOST"] for name in ("resnetd-api ", "resnetd-worker dispatcher")} == {
        "n1"
    }

    (head,) = (command for command in records if "--head" in command)
    composed = set(compose_file()["services"]["ray-head"]["command"]) - {"--dashboard-host=0.0.0.0"}
    assert composed <= {*head.split(), "--disable-usage-stats"}
    assert {"--node-ip-address=10.0.0.1", "--dashboard-host=10.0.0.1"} <= set(head.split())
    nodes = {
        env["HOST"]: (command, env) for command, env in records.items() if "--address=" in command
    }
    assert set(nodes) == set(ADDRESSES)
    for host, (command, env) in nodes.items():
        assert {
            "--address=10.0.0.1:6379",
            f"--node-ip-address={ADDRESSES[host]}",
            "--num-cpus=8",
            "--num-gpus=2",
        } <= set(command.split())
        assert env["GLOO_SOCKET_IFNAME"] == "eth7"
        assert env["RAY_AUTH_MODE"] == "token"
        assert Path(env["PWD"]) == tmp_path / "work" / "empty"
        secret = Path(env["RAY_AUTH_TOKEN_PATH"])
        assert len(secret.read_text()) == 64
        assert secret.stat().st_mode & 0o077 == 0

    environment = records["resnetd-worker dispatcher"]
    fields = {f"RESNETD_{field.upper()}" for field in Settings.model_fields}
    own = {"RESNETD_HOME", "RESNETD_SLURM_SCRIPTS", "RESNETD_SECRETS_DIR"}
    assert {name for name in environment if name.startswith("RESNETD_")} <= fields | own
    assert environment["RESNETD_API_URL"] == "http://10.0.0.1:8000"
    assert environment["RESNETD_RAY_URL"] == "http://10.0.0.1:8265"
    assert (tmp_path / "var" / "api-url").read_text() == "http://10.0.0.1:8000\n"
    ended = (tmp_path / "ended").read_text().split()
    assert set(ended[:2]) == {"resnetd-api", "resnetd-worker"}
    assert ended[2:] == ["ray", "ray", "ray"]


def test_a_process_that_ends_is_started_again(allocation: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin" / "resnetd-api").write_text(f"#!/bin/sh\n{RECORD}exit 3\n")
    with subprocess.Popen(
        ["bash", str(SCRIPTS / "service.sh")],
        env=allocation,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as script:
        eventually(
            lambda: [name for name, _ in _read_records(allocation)].count("resnetd-api ") >= 2
        )
        script.terminate()
        assert script.wait(10.0) == 0
        assert script.stderr is not None
        assert "resnetd-api on n1 ended with status 3" in script.stderr.read()
