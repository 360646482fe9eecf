import resource

import torch

from workers.training import memory


def _page_faults_of_large_tensors() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        # As a step's maps, they are all there at once, and gone at once.
        _ = [torch.ones(4 * 2**20) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_memory_that_was_freed_is_used_again_and_not_asked_for_anew() -> None:
    assert memory.keep_for_the_next_step()
    _page_faults_of_large_tensors()  # the first time
    pages_of_a_step = 8 * 16 * 2**20 // resource.getpagesize()
    assert _page_faults_of_large_tensors() < 2 * pages_of_a_step
