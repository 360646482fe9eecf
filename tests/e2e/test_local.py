"""The foreground service as a person runs it: `make up`, Ctrl-C."""

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
from tests.support.training import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_ctrl_c_leaves_no_process_behind_even_in_the_middle_of_a_job(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "deploy.local", "--var", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as up:
        assert up.stdout is not None
        said = ""
        for line in up.stdout:
            said += line.decode()
            if "Ctrl-C" in said:
                break
        assert f"http://127.0.0.1:{port}" in said
        token_path = tmp_path / "token"
        assert str(token_path) in said
        with resnetd.Client(
            url=f"http://127.0.0.1:{port}", token=token_path.read_text().strip()
        ) as client:
            job = client.submit(depth=20, shortcut="A", dataset="digits", recipe="paper-cifar")
            wait_until(client, job.id, lambda job: job.state != "queued", seconds=30.0)
        everything = psutil.Process(up.pid).children(recursive=True)
        assert len(everything) > 5

        up.send_signal(signal.SIGINT)
        assert up.wait(60.0) == 0

    left = []
    for process in everything:
        with suppress(psutil.NoSuchProcess):
            left.append(" ".join(process.cmdline()))
    assert left == []


def test_a_port_that_is_taken_is_one_plain_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.local", "--var", str(tmp_path), "--port", "0"]

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        command[-1] = str(holder.getsockname()[1])
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60.0)

    assert done.returncode == 1
    assert "is taken" in done.stderr
    assert "Traceback" not in done.stderr
