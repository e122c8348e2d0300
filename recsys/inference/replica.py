"""What ranks for one actor of the teacher pass: teachers of some checkpoints, in this process or split over several.

Split, the processes of a replica hold a part of every large matrix each (tensor parallelism by DeepSpeed's AutoTP) and
do the same with the same rows. They meet in the sum behind every pair of matrices; after it all of them hold the same
numbers, bit by bit, so they choose the same tokens without being told. The process that asks holds no part of the
model: whatever happens to one of them, it ends them all, starts them again and asks again.
"""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from recsys.checkpoint import Checkpoint, load_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.ports import free_port
from recsys.processes import import_deepspeed
from recsys.signals.config import SignalsConfig
from recsys.signals.rankings import Rankings
from recsys.signals.states import DTYPES
from recsys.teacher import Teacher, TeacherPass

_TRIES = 3


class Replica(Protocol):
    """Teachers, each named by the URI of its checkpoint."""

    def load(self, uri: str) -> None:
        """Make a teacher ready, if it is not.

        Raises:
            UserError: it was trained on another dataset, or cannot be read or run so.
        """

    def rank(self, uri: str, rows: np.ndarray) -> Rankings:
        """See `recsys.teacher.TeacherPass`."""

    def states(self, uri: str, rows: np.ndarray, layers: Sequence[int], dtype: str) -> Tensor:
        """See `recsys.inference.ranking.WindowPass.states`; `dtype` is one of `recsys.signals.states.DTYPES`."""

    def close(self) -> None:
        """End what was started."""


def open_replica(dataset_uri: str, config: SignalsConfig, dataset: PreparedDataset | None = None) -> Replica:
    """A replica as the configuration wants it.

    Args:
        dataset: that of the URI where the caller has read it already; the processes of a split one read their own.
    """
    if config.tensor_parallel > 1:
        return SplitReplica(dataset_uri, config)
    torch.set_num_threads(threads(config))
    return WholeReplica(dataset or PreparedDataset.load(dataset_uri), config, "cuda" if config.gpus else "cpu")


def threads(config: SignalsConfig) -> int:
    """What a process computes with: Ray gives it its cores by a number alone, more would get in each other's way."""
    return max(1, round(config.cpus))


def load_teacher(uri: str, dataset: PreparedDataset, device: str = "cpu") -> Checkpoint:
    """The checkpoint of a teacher (`recsys.checkpoint.load_checkpoint`).

    Raises:
        UserError: it was trained on another dataset, or cannot be read.
    """
    checkpoint = load_checkpoint(uri, device)
    checkpoint.check_dataset(dataset, f"teacher {uri}", "run train_teacher on this dataset")
    return checkpoint


class WholeReplica:
    """In this process. All teachers that were asked for stay: of out-of-fold signals every shard asks for each."""

    def __init__(self, dataset: PreparedDataset, config: SignalsConfig, device: str | torch.device) -> None:
        self._dataset, self._config, self._device = dataset, config, device
        self._passes: dict[str, TeacherPass] = {}

    def load(self, uri: str) -> None:
        if uri not in self._passes:
            model = load_teacher(uri, self._dataset).model
            assert isinstance(model, Teacher)
            self._passes[uri] = model.ready(self._config, self._device)

    def rank(self, uri: str, rows: np.ndarray) -> Rankings:
        self.load(uri)
        return self._passes[uri].rank(self._dataset, rows)

    def states(self, uri: str, rows: np.ndarray, layers: Sequence[int], dtype: str) -> Tensor:
        self.load(uri)
        reader: Any = self._passes[uri]  # a `WindowPass`: only teachers with layers are asked
        return reader.states(self._dataset, rows, layers, DTYPES[dtype])

    def close(self) -> None:
        self._passes.clear()


class SplitReplica:
    """In `tensor_parallel` processes of this machine, which end with this one; on GPUs the i-th has the i-th of those
    that this process may use."""

    def __init__(self, dataset_uri: str, config: SignalsConfig) -> None:
        self._dataset_uri, self._config = dataset_uri, config
        self._members: list[tuple[Any, Connection]] = []
        self._loaded: list[str] = []

    def load(self, uri: str) -> None:
        if uri not in self._loaded:
            self._ask("load", uri)
            self._loaded.append(uri)

    def rank(self, uri: str, rows: np.ndarray) -> Rankings:
        return self._ask("rank", uri, rows)

    def states(self, uri: str, rows: np.ndarray, layers: Sequence[int], dtype: str) -> Tensor:
        return load(self._ask("states", uri, rows, layers, dtype))["answer"]

    def close(self) -> None:
        for process, connection in self._members:
            process.kill()
            process.join()
            connection.close()
        self._members, self._loaded = [], []

    def _ask(self, *question: Any) -> Any:
        """What the first process answers; a question is the name of a method and its arguments."""
        for _ in range(_TRIES):
            if not self._members:
                self._start()
            try:
                return self._answer(question)
            except (EOFError, OSError):  # one of them has ended
                self.close()
        raise RuntimeError(f"a process of a split teacher ended {_TRIES} times; what it wrote last says why")

    def _answer(self, question: tuple[Any, ...]) -> Any:
        for _, connection in self._members:
            connection.send(question)
        waiting = [connection for _, connection in self._members]
        answers = {}
        while waiting:
            for ready in wait(waiting):
                assert isinstance(ready, Connection)
                waiting.remove(ready)
                answers[ready] = ready.recv()
        answer = answers[self._members[0][1]]
        if isinstance(answer, UserError):
            raise answer
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        port = free_port()
        for rank in range(self._config.tensor_parallel):
            ours, theirs = context.Pipe()
            arguments = (theirs, rank, port, self._dataset_uri, self._config)
            process = context.Process(target=_member, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._members.append((process, ours))


def _member(connection: Connection, rank: int, port: int, dataset_uri: str, config: SignalsConfig) -> None:
    """One process of a split replica."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    size = str(config.tensor_parallel)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ.update(WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
    torch.set_num_threads(threads(config))
    device = torch.device("cuda", rank) if config.gpus else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    deepspeed = import_deepspeed(device)
    deepspeed.init_distributed(dist_backend="nccl" if config.gpus else "gloo", verbose=False)
    replica = WholeReplica(PreparedDataset.load(dataset_uri), config, device)
    with contextlib.suppress(EOFError):  # nobody asks any more
        while True:
            method, *arguments = connection.recv()
            answer: Any
            try:
                answer = getattr(replica, method)(*arguments)
            except UserError as error:
                answer = error
            if isinstance(answer, Tensor):  # sent as it is, it would be shared by a file that a killed process leaves
                answer = save({"answer": answer})
            connection.send(answer if rank == 0 else None)


def _end_with_parent() -> None:
    """Even amid a computation: nobody waits for it, and its memory is needed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
