import pytest
import torch

from workers.training.device_context import DeviceContext


@pytest.mark.parametrize(("share", "limits"), [(0.25, [0.25]), (1.0, [])])
def test_a_share_of_a_gpu_is_a_share_of_its_memory(
    monkeypatch: pytest.MonkeyPatch, share: float, limits: list[float]
) -> None:
    set_to: list[float] = []
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda part, _device: set_to.append(part)
    )
    threads = torch.get_num_threads()
    DeviceContext(0, 1, torch.device("cuda"), threads=threads, gpu_share=share).settle()
    DeviceContext(0, 1, torch.device("cpu"), threads=threads, gpu_share=share).settle()
    assert set_to == limits
