"""How a training step is carried out: plain PyTorch (data-parallel where there are several processes) or DeepSpeed.

Both engines take the same objective and configuration and write their resume state as one file per process or several.
Resume state is written and read by the same run only; what is exchanged or served is `recsys.checkpoint`.
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recsys.errors import UserError
from recsys.model import SequentialRecommender
from recsys.ports import free_port
from recsys.processes import import_deepspeed, world
from recsys.training.batches import Batch
from recsys.training.config import TrainingConfig
from recsys.training.objective import Objective


class Engine(Protocol):
    """One training process."""

    objective: Objective

    def step(self, batch: Batch, total: float, learning_rate: float) -> dict[str, Tensor]:
        """One optimiser step; `total` is what the sums over the whole batch, all processes together, are divided by."""

    def export_state(self) -> dict[str, Tensor]:
        """The model's `export_state` on the CPU, whole; on rank 0 alone for certain. Every process calls it."""

    def save(self, directory: Path) -> None:
        """Write this process's resume state. Every process calls it."""

    def load(self, directory: Path) -> None:
        """Restore what `save` wrote. Every process calls it."""


def build_engine(objective: Objective, config: TrainingConfig, device: torch.device) -> Engine:
    if config.checkpointing:
        _checkpoint_layers(objective)
    return DeepSpeedEngine(objective, config, device) if config.deepspeed else TorchEngine(objective, config, device)


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices; none for biases and norms."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def _autocast(config: TrainingConfig, device: torch.device) -> Any:
    return torch.autocast(device.type, dtype=torch.bfloat16) if config.precision == "bf16" else nullcontext()


def _checkpoint_layers(objective: Objective) -> None:
    """Switch gradient checkpointing on in every transformers model.

    Raises:
        UserError: there is none.
    """
    models: list[Any] = [module for module in objective.modules() if hasattr(module, "gradient_checkpointing_enable")]
    if not models:
        raise UserError("training.checkpointing is for language models, and this model holds none; set it to false")
    for model in models:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _parts(batch: Batch, config: TrainingConfig, device: torch.device) -> list[Batch]:
    """`accumulation` parts of a batch, on the device; fewer where a process has fewer rows, but equally many on all,
    because under ZeRO every backward pass is a joint one."""
    count = min(config.accumulation, len(next(iter(batch.values()))))
    if config.accumulation > 1 and world()[1] > 1:
        agreed = torch.tensor(count, device=device)
        dist.all_reduce(agreed, dist.ReduceOp.MIN)
        count = int(agreed)
    split = {name: tensor.to(device).tensor_split(count) for name, tensor in batch.items()}
    return [{name: parts[number] for name, parts in split.items()} for number in range(count)]


def _sum(records: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([record[name] for record in records]).sum(dim=0) for name in records[0]}


def _scale(loss: Tensor, parts: dict[str, Tensor], total: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Sums become means; gradients are averaged over processes afterwards, hence the factor."""
    processes = world()[1]
    return loss * (processes / total), {name: part * (processes / total) for name, part in parts.items()}


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}


@contextmanager
def _own_weight_decay(optimizer: Any) -> Iterator[None]:
    """Keep what the configuration says while another's state is loaded, as population-based training does."""
    own = [group["weight_decay"] for group in optimizer.param_groups]
    yield
    for group, value in zip(optimizer.param_groups, own, strict=True):
        group["weight_decay"] = value


class TorchEngine:
    """AdamW, with `DistributedDataParallel` where there are several processes."""

    def __init__(self, objective: Objective, config: TrainingConfig, device: torch.device) -> None:
        self.objective = objective.to(device)
        self._config, self._device = config, device
        self._module: nn.Module = objective
        if world()[1] > 1:
            ids = [device.index or 0] if device.type == "cuda" else None
            # Buffers (text and teacher tables) never change, so they need not be sent at every step.
            self._module = DistributedDataParallel(objective, device_ids=ids, forward_sync_buffers=False)
        groups = _parameter_groups(objective, config.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)

    def step(self, batch: Batch, total: float, learning_rate: float) -> dict[str, Tensor]:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        micro = _parts(batch, self._config, self._device)
        records = []
        for number, part in enumerate(micro):
            # Gradients are exchanged once, with those of the last part.
            joint = self._module if isinstance(self._module, DistributedDataParallel) else None
            with joint.no_sync() if joint and number + 1 < len(micro) else nullcontext():
                with _autocast(self._config, self._device):
                    loss, parts = self._module(part)
                loss, parts = _scale(loss, parts, total)
                loss.backward()
            records.append({"loss": loss.detach(), **parts})
        if self._config.gradient_clipping:
            nn.utils.clip_grad_norm_(self.objective.parameters(), self._config.gradient_clipping)
        self._optimizer.step()
        return _sum(records)

    def export_state(self) -> dict[str, Tensor]:
        return _on_cpu(self.objective.model.export_state())

    def save(self, directory: Path) -> None:
        if world()[0] == 0:
            state = {"objective": self.objective.state_dict(), "optimizer": self._optimizer.state_dict()}
            with (directory / "engine.pt").open("wb") as file:  # whose errors tell of a full disk, unlike PyTorch's own
                torch.save(state, file)

    def load(self, directory: Path) -> None:
        state = torch.load(directory / "engine.pt", map_location=self._device, weights_only=True)
        self.objective.load_state_dict(state["objective"])
        with _own_weight_decay(self._optimizer):
            self._optimizer.load_state_dict(state["optimizer"])


class DeepSpeedEngine:
    """ZeRO through DeepSpeed, on GPU (NCCL) or CPU (gloo)."""

    def __init__(self, objective: Objective, config: TrainingConfig, device: torch.device) -> None:
        deepspeed = import_deepspeed(device)
        assert config.deepspeed is not None
        if not dist.is_initialized():
            for name, value in {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
                os.environ.setdefault(name, value)
            os.environ.setdefault("MASTER_PORT", str(free_port()))
        deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
        self.objective, self._config, self._device = objective, config, device
        self._zero_stage = config.deepspeed.zero_stage
        self._whole: SequentialRecommender | None = None  # under ZeRO-3, on rank 0's processor: weights to be exported
        settings: dict[str, Any] = {
            # Batches are cut by `Windows`; the number given here only satisfies DeepSpeed's check.
            "train_micro_batch_size_per_gpu": max(config.batch_size // world()[1] // config.accumulation, 1),
            "gradient_accumulation_steps": 1,
            "zero_optimization": {"stage": config.deepspeed.zero_stage},
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": config.gradient_clipping,
            "bf16": {"enabled": config.precision == "bf16"},
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }
        offload = {"device": "cpu", "pin_memory": device.type == "cuda"}
        groups = _parameter_groups(objective, config.weight_decay)
        if config.deepspeed.offload_optimizer:
            settings["zero_optimization"]["offload_optimizer"] = offload
            optimizer: Any = deepspeed.ops.adam.DeepSpeedCPUAdam(groups, lr=config.learning_rate, adamw_mode=True)
        else:
            optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        if config.deepspeed.offload_parameters:
            settings["zero_optimization"]["offload_param"] = offload
        if self._zero_stage == 3:
            self._part(settings)
        else:
            objective.to(device)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=objective, optimizer=optimizer, config=settings
        )

    def step(self, batch: Batch, total: float, learning_rate: float) -> dict[str, Tensor]:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        records = []
        micro = _parts(batch, self._config, self._device)
        for number, part in enumerate(micro):
            # The number of parts differs from step to step, so the boundary is told rather than counted.
            self._engine.set_gradient_accumulation_boundary(is_boundary=number + 1 == len(micro))
            loss, parts = self._engine(part)
            loss, parts = _scale(loss, parts, total)
            self._engine.backward(loss)
            records.append({"loss": loss.detach(), **parts})
        self._engine.step()
        return _sum(records)

    def export_state(self) -> dict[str, Tensor]:
        model, whole = self.objective.model, self._whole
        if self._zero_stage < 3:
            return _on_cpu(model.export_state())
        import deepspeed

        model.before_export()
        target = {} if whole is None else dict(whole.named_parameters())
        for name, parameter in model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                if whole is not None:
                    target[name].data.copy_(parameter)
        if whole is None:
            return {}
        for buffer, current in zip(whole.buffers(), model.buffers(), strict=True):
            buffer.copy_(current)
        return _on_cpu(whole.export_state())

    def _part(self, settings: dict[str, Any]) -> None:
        """Share the weights out among the processes (ZeRO-3), one by one: never does a device hold them all."""
        import deepspeed

        if self._config.precision == "bf16":  # DeepSpeed takes shared-out weights as they are
            for parameter in self.objective.parameters():
                parameter.data = parameter.data.bfloat16()
        if world()[0] == 0:
            self._whole = copy.deepcopy(self.objective.model)
        for buffer in self.objective.buffers():
            buffer.data = buffer.data.to(self._device)
        deepspeed.zero.Init(module=self.objective, config_dict_or_path=settings)

    def save(self, directory: Path) -> None:
        self._engine.save_checkpoint(str(directory), tag="deepspeed")

    def load(self, directory: Path) -> None:
        with _own_weight_decay(self._optimizer):
            self._engine.load_checkpoint(str(directory), tag="deepspeed")
