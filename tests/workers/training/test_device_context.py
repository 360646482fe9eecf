import resource

import pytest
import torch

from workers.training import device_context
from workers.training.device_context import DeviceContext


@pytest.mark.parametrize(("share", "limits"), [(0.25, [0.25]), (1.0, [])])
def test_a_share_of_a_gpu_limits_its_memory(
    monkeypatch: pytest.MonkeyPatch, share: float, limits: list[float]
) -> None:
    limits_set: list[float] = []
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda fraction, _device: limits_set.append(fraction),
    )
    threads = torch.get_num_threads()
    for device in ("cuda", "cpu"):
        context = DeviceContext(0, 1, torch.device(device), threads=threads, gpu_share=share)
        context.configure_process()
    assert limits_set == limits


def _count_page_faults_of_a_step() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        # Like the activations of a step: all allocated, then all freed.
        _ = [torch.ones(4 * 2**20) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_reused_without_page_faults() -> None:
    assert device_context.retain_freed_memory()
    _count_page_faults_of_a_step()  # faults in the memory
    pages = 8 * 16 * 2**20 // resource.getpagesize()
    assert _count_page_faults_of_a_step() < 2 * pages
