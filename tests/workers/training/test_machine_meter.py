import math
import multiprocessing
import os
import time

import pytest
import torch

from tests.support.fake_api import eventually
from tests.workers.training.support import CPU
from workers.training import machine_meter
from workers.training.machine_meter import SAMPLE_SECONDS, MachineMeter


class ManualClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _compute(seconds: float) -> None:
    """Uses a CPU for that time."""
    started = time.process_time()
    while time.process_time() - started < seconds:
        math.factorial(500)


def test_cpu_time_and_memory_of_the_process_are_sampled() -> None:
    clock = ManualClock()
    meter = MachineMeter(CPU, clock=clock)
    _compute(0.5)
    clock.now += 2.0
    assert meter.update()
    assert meter.sample.cpu_percent == pytest.approx(25.0, abs=15.0)
    assert meter.sample.memory_bytes > 20e6
    assert math.isnan(meter.sample.gpu_percent)


def test_samples_are_a_second_apart() -> None:
    clock = ManualClock()
    meter = MachineMeter(CPU, clock=clock)
    updates = []
    for _ in range(8):
        clock.now += SAMPLE_SECONDS / 4
        updates.append(meter.update())
    assert updates == [False, False, False, True] * 2


def test_data_loaders_count_while_they_live_and_after_their_end() -> None:
    clock = ManualClock()
    meter = MachineMeter(CPU, clock=clock)
    # A builtin: the new process imports nothing to find it.
    child = multiprocessing.get_context("spawn").Process(target=sum, args=(range(10**15),))
    child.start()

    def has_used_cpu() -> bool:
        clock.now += 1.0
        assert meter.update()
        return meter.sample.cpu_percent > 20.0

    try:
        eventually(has_used_cpu, poll_seconds=0.5)
        own_bytes = machine_meter._read_memory_bytes("self")
        assert meter.sample.memory_bytes > own_bytes + 5e6
    finally:
        child.kill()
    child.join()
    clock.now += 1.0
    assert meter.update()
    assert meter.sample.cpu_percent >= 0.0


def test_a_process_that_has_ended_uses_nothing() -> None:
    child = multiprocessing.get_context("spawn").Process(target=os.getpid)
    child.start()
    child.join()
    assert machine_meter._read_memory_bytes(str(child.pid)) == 0
    assert machine_meter._read_child_cpu_seconds(str(child.pid)) == 0.0


def test_a_gpu_without_nvml_still_has_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse(device: torch.device) -> int:
        calls.append(device)
        raise ModuleNotFoundError("nvidia-ml-py is not installed")

    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 5_000)
    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    clock = ManualClock()
    meter = MachineMeter(torch.device("cuda"), clock=clock)
    for _ in range(3):
        clock.now += SAMPLE_SECONDS
        assert meter.update()
    assert meter.sample.gpu_memory_bytes == 5_000.0
    assert math.isnan(meter.sample.gpu_percent)
    assert math.isnan(meter.sample.gpu_power_watts)
    assert len(calls) == 1, "what the machine cannot say is asked once"


def test_a_gpu_has_utilization_and_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 5_000)
    monkeypatch.setattr(torch.cuda, "utilization", lambda _: 87)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda _: 251_500)
    clock = ManualClock()
    meter = MachineMeter(torch.device("cuda"), clock=clock)
    clock.now += SAMPLE_SECONDS
    assert meter.update()
    assert (meter.sample.gpu_percent, meter.sample.gpu_power_watts) == (87.0, 251.5)
