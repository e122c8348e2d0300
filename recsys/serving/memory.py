"""Where large tables lie in memory."""

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor, nn

LARGE = 2**24
"""Bytes from which it matters."""


def allocate(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros on the CPU; a large one in memory that the kernel maps in large pages where it can (Linux: 2 MB
    in place of 4 KB), so that reading all of it waits less for translations of addresses."""
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(*shape, dtype=dtype)
    # Of shared memory, Python's default, the kernel makes no large pages unless it is told to elsewhere.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(*shape)


def move_to_large_pages(vectors: Tensor, model: nn.Module) -> Tensor:
    """The vectors of a model's items where `allocate` puts them, and the parameter whose memory they are with them, so
    that nothing is kept twice.

    Those on a GPU, small ones, a buffer (which may be mapped from a file), and what begins a page, as after a move,
    stay where they are.
    """
    if vectors.device.type != "cpu" or vectors.nbytes < LARGE or vectors.data_ptr() % mmap.PAGESIZE == 0:
        return vectors
    if any(vectors.data_ptr() == buffer.data_ptr() for buffer in model.buffers()):
        return vectors
    moved = allocate(vectors.shape, vectors.dtype).copy_(vectors.detach())
    for parameter in model.parameters():
        if (parameter.data_ptr(), parameter.shape) == (vectors.data_ptr(), vectors.shape):
            parameter.data = moved
    return moved
