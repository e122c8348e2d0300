"""How fast training is: rows and tokens per second and, on a GPU, the share of its peak that is reached."""

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from recsys.training.batches import Batch
from recsys.training.objective import Objective

# Dense bf16 FLOP/s by the vendor's data sheets; the longest entry contained in a card's name counts.
PEAKS = {
    "B200": 2250e12, "H200": 989e12, "H100": 989e12, "H100 PCIe": 756e12, "A100": 312e12, "L40S": 362e12,
    "L4": 121e12, "A10": 125e12, "A10G": 70e12, "RTX 4090": 165e12,
}  # fmt: skip


class Meter:
    """Counts what the steps of an epoch work off, over all processes."""

    def __init__(self, objective: Objective, device: torch.device, peak: float | None = None) -> None:
        """peak: FLOP/s of this device; by default looked up by its name, none where that is unknown."""
        self._objective, self._device = objective, device
        self._peak = peak or (peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None)
        self._flops_of_token: float | None = None
        self._rows = self._tokens = 0

    def before(self, batch: Batch) -> None:
        """To be called before a step: the first batch is measured where the device's peak is known."""
        if self._peak and self._flops_of_token is None:
            part = {name: tensor[:1].to(self._device) for name, tensor in batch.items()}
            self._flops_of_token = training_flops(self._objective, part) / max(1, self._objective.tokens(part))

    def after(self, batch: Batch) -> None:
        """To be called after a step."""
        self._rows += self._objective.rows(batch)
        self._tokens += self._objective.tokens(batch)

    def read(self, seconds: float) -> dict[str, float]:
        """The figures of what was counted since the last call, over all processes, all of which must call this.

        `flops_utilisation` is the mean over devices, by the operations per token of this process's first row; what
        gradient checkpointing computes again does not count.
        """
        counted = torch.tensor([self._rows, self._tokens, 1.0], dtype=torch.float64, device=self._device)
        if dist.is_initialized():
            dist.all_reduce(counted)
        rows, tokens, devices = counted.tolist()
        self._rows = self._tokens = 0
        result = {"rows_per_second": rows / seconds, "tokens_per_second": tokens / seconds}
        if self._peak and self._flops_of_token:
            result["flops_utilisation"] = tokens / seconds * self._flops_of_token / (devices * self._peak)
        return result


def training_flops(objective: nn.Module, batch: Batch) -> float:
    """Floating-point operations of matrix products and attention in one step: those of the forward pass, once more for
    the gradients of what flows, and once more for the share of weights that are trained. All randomness is put back."""
    cards = {tensor.device for tensor in batch.values() if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=cards), torch.no_grad(), FlopCounterMode(display=False) as counter:
        objective(batch)
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in objective.parameters()]  # ZeRO-3 parts them
    trained = sum(size for size, learns in sizes if learns) / max(1, sum(size for size, _ in sizes))
    return counter.get_total_flops() * (2 + trained)


def peak_of(name: str) -> float | None:
    """Peak of a card by its name."""
    words = f" {name.replace('-', ' ')} "
    found = [card for card in PEAKS if f" {card} " in words]
    return PEAKS[max(found, key=len)] if found else None
