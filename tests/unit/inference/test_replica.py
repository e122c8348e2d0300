"""A teacher on two processes says what it says on one. All models here are tiny and random."""

import dataclasses
import multiprocessing.resource_tracker
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from recsys.checkpoint import save_checkpoint
from recsys.config import from_dict
from recsys.data.prepared import PreparedDataset
from recsys.decoders.splitting import inject_kernels
from recsys.errors import UserError
from recsys.inference.replica import SplitReplica, WholeReplica
from recsys.signals.config import SignalsConfig
from recsys.teacher import Teacher
from recsys.teachers.bigrec.bigrec import BIGRec
from recsys.teachers.bigrec.config import BIGRecConfig, BIGRecLoRAConfig
from recsys.teachers.config import E4SRecConfig, HLLMConfig
from recsys.teachers.e4srec import E4SRec
from recsys.teachers.hllm import HLLM
from tests.unit.teachers.bigrec.conftest import save_base

pytestmark = pytest.mark.timeout(900)  # two processes that wait for each other are slow on a busy machine
CONFIG = SignalsConfig(k=5, dtype="fp32", batch_size=4, tensor_parallel=2)


@pytest.fixture
def replica(dataset: PreparedDataset, tmp_path: Path) -> Iterator[SplitReplica]:
    dataset.write(str(tmp_path / "dataset"))
    made = SplitReplica(str(tmp_path / "dataset"), CONFIG)
    yield made
    made.close()
    multiprocessing.resource_tracker._resource_tracker._stop()  # it would only end with this process


def hllm(dataset: PreparedDataset) -> HLLM:
    torch.manual_seed(1)
    model = HLLM(HLLMConfig(width=16, heads=2, hidden=16, item_width=8), num_items=dataset.num_items)
    model.text.normal_()
    return model


def with_qwen2(dataset: PreparedDataset, teacher: BIGRec, folder: Path) -> BIGRec:
    """A BIGRec on a Qwen2 with key-value heads of its own, and adapters that say something."""
    tokenizer = teacher.prompts.tokenizer
    base = save_base(folder, "Qwen2", tokenizer, len(tokenizer), num_attention_heads=4, num_key_value_heads=2)
    config = BIGRecConfig(base=base, max_tokens=400, title_tokens=6, lora=BIGRecLoRAConfig(rank=2), beams=2)
    inputs = BIGRec.prepare(config, dataset, cache=str(folder), student=str)
    model = BIGRec.objective(config, dataset, inputs, seed=0).model
    for name, parameter in model.lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return model


def agree(replica: SplitReplica, dataset: PreparedDataset, uri: str, model: Teacher, rows: np.ndarray) -> None:
    """Both rank alike."""
    save_checkpoint(uri, model, dataset)
    expected = WholeReplica(dataset, dataclasses.replace(CONFIG, tensor_parallel=1), "cpu").rank(uri, rows)
    split = replica.rank(uri, rows)
    assert np.array_equal(split.items, expected.items)
    np.testing.assert_allclose(split.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(split.target_distance, expected.target_distance, atol=1e-4)
    assert split.tokens == expected.tokens > 0


def test_two_processes_rank_as_one_does(
    dataset: PreparedDataset, teacher: Callable[..., BIGRec], replica: SplitReplica, tmp_path: Path
) -> None:
    agree(replica, dataset, str(tmp_path / "hllm"), hllm(dataset), dataset.rows("test"))
    agree(
        replica, dataset, str(tmp_path / "bigrec"), teacher(dataset, beams=2, title_tokens=6), dataset.rows("test")[:4]
    )
    odd = HLLM(HLLMConfig(width=18, heads=3, hidden=16, item_width=8), num_items=dataset.num_items)
    save_checkpoint(str(tmp_path / "odd"), odd, dataset)
    with pytest.raises(UserError, match="the teacher has 3 attention heads, which 2 does not divide"):
        replica.load(str(tmp_path / "odd"))


@pytest.mark.full
@pytest.mark.faults
def test_other_kinds_and_a_killed_process(
    dataset: PreparedDataset, teacher: Callable[..., BIGRec], replica: SplitReplica, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    config = {"kind": "e4srec", "id_width": 8, "width": 16, "layers": 2, "heads": 2, "response_vectors": 2}
    e4srec = E4SRec.build(from_dict(E4SRecConfig, config), torch.randn(dataset.num_items + 1, 8))
    agree(replica, dataset, str(tmp_path / "e4srec"), e4srec, dataset.rows("test"))
    one = WholeReplica(dataset, dataclasses.replace(CONFIG, tensor_parallel=1), "cpu")
    question = str(tmp_path / "e4srec"), dataset.rows("test"), [1, 2], "fp32"
    torch.testing.assert_close(replica.states(*question), one.states(*question), atol=1e-4, rtol=1e-4)
    os.kill(max(one.pid or 0 for one in multiprocessing.active_children()), signal.SIGKILL)
    qwen2 = with_qwen2(dataset, teacher(dataset), tmp_path / "base")
    agree(replica, dataset, str(tmp_path / "qwen2"), qwen2, dataset.rows("test")[:4])


def test_a_teacher_of_another_dataset_is_refused(dataset: PreparedDataset, tmp_path: Path) -> None:
    save_checkpoint(str(tmp_path / "teacher"), hllm(dataset), dataset)
    other = dataclasses.replace(dataset, user_ids=dataset.user_ids[::-1], fingerprint="")
    config = dataclasses.replace(CONFIG, tensor_parallel=1)
    WholeReplica(dataset, config, "cpu").load(str(tmp_path / "teacher"))
    with pytest.raises(UserError, match=r"teacher .* was trained on dataset .* run train_teacher on this dataset"):
        WholeReplica(other, config, "cpu").load(str(tmp_path / "teacher"))


def test_what_does_not_go_together_is_said() -> None:
    for values, message in (
        (
            {"tensor_parallel": 2, "gpus": 0.5},
            "gpus is 0.5 per process, but with tensor_parallel each has one of its own",
        ),
        ({"kernel_injection": True}, "kernel_injection is for one process with a GPU"),
        ({"actors": 3, "max_actors": 2}, r"max_actors is 2, less than actors \(3\)"),
    ):
        with pytest.raises(UserError, match=message):
            from_dict(SignalsConfig, values)
    decoder = LlamaModel(LlamaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(UserError, match="kernel_injection needs a GPU"):
        inject_kernels(decoder, torch.float32, torch.device("cpu"))
