import mmap

import pytest
import torch
from torch import nn

from recsys.serving import memory

LARGE = torch.zeros(memory.LARGE // 256 + 1, 64)


@pytest.mark.parametrize("shape", [(3, 5), tuple(LARGE.shape)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.bfloat16])
def test_memory_is_zero_and_may_be_written(shape: tuple[int, int], dtype: torch.dtype) -> None:
    allocated = memory.allocate(shape, dtype)
    assert allocated.shape == shape and allocated.dtype == dtype and not allocated.any()
    allocated[-1] = 1
    assert int(allocated[-1].sum()) == shape[1] and not allocated[:-1].any()


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="large pages are Linux's")
def test_a_large_parameter_moves_with_its_vectors_and_is_kept_once() -> None:
    model = nn.Embedding.from_pretrained(torch.randn_like(LARGE), freeze=False)
    other = nn.Linear(2, 2)
    before, place = model.weight.detach().clone(), model.weight.data_ptr()
    moved = memory.move_to_large_pages(model.weight, nn.ModuleList([model, other]))
    assert moved.data_ptr() == model.weight.data_ptr() != place
    assert torch.equal(moved, before) and model.weight.requires_grad


def test_what_is_small_or_a_buffer_stays() -> None:
    model = nn.Module()
    model.register_buffer("table", LARGE)
    small = nn.Embedding(3, 4)
    assert memory.move_to_large_pages(LARGE, model) is LARGE
    assert memory.move_to_large_pages(small.weight, small) is small.weight
