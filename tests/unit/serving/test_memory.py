import mmap
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from recsys.serving import memory

LINUX = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="large pages are Linux's")
LARGE = torch.zeros(memory.LARGE // 256 + 1, 64)


@pytest.mark.parametrize("shape", [(3, 5), tuple(LARGE.shape)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.bfloat16])
def test_memory_is_zero_and_may_be_written(shape: tuple[int, int], dtype: torch.dtype) -> None:
    allocated = memory.allocate(shape, dtype)
    assert allocated.shape == shape and allocated.dtype == dtype and not allocated.any()
    allocated[-1] = 1
    assert int(allocated[-1].sum()) == shape[1] and not allocated[:-1].any()


def read_flags(address: int) -> list[str]:
    """The kernel's flags of the mapping that holds an address; `hg` asks for large pages, `sh` is shared."""
    here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            here = int(found[1], 16) <= address < int(found[2], 16)
        elif here and line.startswith("VmFlags:"):
            return line.split()[1:]
    return []


@LINUX
def test_large_pages_are_asked_for_where_the_kernel_has_them() -> None:
    allocated = memory.allocate(LARGE.shape, torch.float32)
    flags = read_flags(allocated.data_ptr() + allocated.nbytes // 2)
    assert "hg" in flags and "sh" not in flags


@LINUX
def test_a_large_parameter_moves_with_its_vectors_and_is_kept_once() -> None:
    model = nn.Embedding.from_pretrained(torch.randn_like(LARGE), freeze=False)
    other = nn.Linear(2, 2)
    before, place = model.weight.detach().clone(), model.weight.data_ptr()
    moved = memory.move_to_large_pages(model.weight, nn.ModuleList([model, other]))
    assert moved.data_ptr() == model.weight.data_ptr() != place
    assert torch.equal(moved, before) and model.weight.requires_grad
    assert memory.move_to_large_pages(model.weight, model) is model.weight, "once is enough"


def test_what_is_small_or_a_buffer_stays() -> None:
    model = nn.Module()
    model.register_buffer("table", LARGE)
    small = nn.Embedding(3, 4)
    assert memory.move_to_large_pages(LARGE, model) is LARGE
    assert memory.move_to_large_pages(small.weight, small) is small.weight
