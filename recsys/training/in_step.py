"""Calls of a module whose weights are split over processes (ZeRO-3), as many as each process needs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from recsys.processes import world


@contextmanager
def keep_in_step(module: nn.Module, idle: Callable[[], Any]) -> Iterator[None]:
    """While it lasts, processes may call `module` in different numbers, though every call gathers weights from all.

    A call first says that there is one. Whoever has reached the end takes part in the calls of the others by `idle`,
    which must call `module` once, until all have reached it. Where weights are whole, nothing is done.
    """
    if world()[1] == 1 or not any(hasattr(parameter, "ds_id") for parameter in module.parameters()):
        yield
        return
    device = next(module.parameters()).device

    def ask_all(somebody: bool) -> bool:
        count = torch.tensor(int(somebody), device=device)
        dist.all_reduce(count)
        return bool(count)

    def announce(*_: Any) -> None:
        ask_all(True)

    handle = module.register_forward_pre_hook(announce, prepend=True)  # before the one that gathers weights
    try:
        yield
    finally:
        handle.remove()
    while ask_all(False):
        idle()
