"""`make up` and Ctrl-C."""

import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import resnetd
from deploy.ray_head import free_ports
from tests.support.training import wait_for_job

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_ctrl_c_during_a_job_leaves_no_process_behind(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "deploy.local", "--var", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as up:
        assert up.stdout is not None
        output = ""
        for line in up.stdout:
            output += line.decode()
            if "Ctrl-C" in output:
                break
        assert f"http://127.0.0.1:{port}" in output
        token_path = tmp_path / "token"
        assert str(token_path) in output
        with resnetd.Client(
            url=f"http://127.0.0.1:{port}", token=token_path.read_text().strip()
        ) as client:
            job = client.submit(depth=20, shortcut="A", dataset="digits", recipe="paper-cifar")
            wait_for_job(client, job.id, lambda job: job.state != "queued", within_seconds=30.0)
        processes = psutil.Process(up.pid).children(recursive=True)
        assert len(processes) > 5

        up.send_signal(signal.SIGINT)
        assert up.wait(60.0) == 0

    survivors = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            survivors.append(" ".join(process.cmdline()))
    assert survivors == []


def test_a_port_in_use_is_reported_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.local", "--var", str(tmp_path), "--port", "0"]

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        command[-1] = str(holder.getsockname()[1])
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60.0)

    assert done.returncode == 1
    assert "is in use" in done.stderr
    assert "Traceback" not in done.stderr
