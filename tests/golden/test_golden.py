"""Loss curves and rankings of every kind of model on the tiny data set, against the files beside this one.

A change that should not change numbers must reproduce them bit for bit, which is what `RECSYS_GOLDEN=exact` asks for on
the machine where they were recorded; without it, last bits may differ, as they do from processor to processor. A change
that should change numbers records them anew: `RECSYS_GOLDEN=record`.
"""

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import PreparedDataset
from recsys.decoders.compression import compress
from recsys.decoders.config import CompressionConfig, LowRankConfig
from recsys.decoders.item_encoder import TextEmbeddings
from recsys.evaluation.ranking import model_scorer, rank_targets
from recsys.histories import Histories
from recsys.losses.config import (
    AlignmentConfig,
    DistillationConfig,
    RankingDistillationConfig,
    RecommendationLossConfig,
)
from recsys.model import SequentialRecommender
from recsys.signals.config import SignalsConfig
from recsys.signals.signals import SignalsMeta, TeacherSignals
from recsys.students.build import build_student
from recsys.students.config import CaserConfig, GRU4RecConfig, HSTUConfig, SASRecConfig, SLMRecConfig
from recsys.students.slmrec import build_slmrec
from recsys.teacher import Teacher
from recsys.teachers.bigrec.bigrec import BIGRec
from recsys.teachers.bigrec.config import BIGRecConfig
from recsys.teachers.config import E4SRecConfig, HLLMConfig
from recsys.teachers.e4srec import E4SRec
from recsys.teachers.hllm import HLLM
from recsys.teachers.hllm_training import hllm_objective
from recsys.teachers.layered import LayeredTeacher
from recsys.training.config import TrainingConfig
from recsys.training.loop import train
from recsys.training.objective import NextItemObjective, Objective

HERE = Path(__file__).resolve().parent
MODE = os.environ.get("RECSYS_GOLDEN", "")
ROWS = 12  # of the test split, in the files
SOFTMAX = RecommendationLossConfig()


@pytest.fixture(scope="module")
def dataset(fixture_data: Path) -> PreparedDataset:
    torch.set_num_threads(1)
    config = DataConfig(source="ml-100k", path=str(fixture_data), max_history=20)
    return prepare(config, "tiny", report=lambda _: None)


class Zoo:
    """Each model trained once, for the tests that need it."""

    def __init__(self, dataset: PreparedDataset, folder: Path) -> None:
        self.dataset, self.folder = dataset, folder

    def learn(self, name: str, objective: Objective, *, epochs: int = 2) -> dict[str, Any]:
        """Train, save, load; the losses and metrics of all epochs."""
        config = TrainingConfig(epochs=epochs, batch_size=16, learning_rate=3e-3, weight_decay=0.01)
        result = train(objective, self.dataset, config, report=lambda _: None)
        state = result.state
        if isinstance(objective.model, Teacher):
            state = objective.model.finish(state, self.dataset)
        self.keep(name, objective.model, state)
        return {
            key: [epoch[key] for epoch in result.progress.curve]
            for key in result.progress.curve[0]
            if "loss" in key or "valid_ndcg@10" in key or "valid_mrr" in key
        }

    def keep(self, name: str, model: SequentialRecommender, state: dict[str, torch.Tensor] | None = None) -> None:
        save_checkpoint(str(self.folder / name), model, self.dataset, state=state)

    def model(self, name: str) -> Any:
        return load_checkpoint(self.folder / name).model

    @property
    def rows(self) -> np.ndarray:
        return self.dataset.rows("test")[:ROWS]

    def recommended(self, name: str) -> dict[str, Any]:
        """Top 10 of the catalogue for the latest histories, as serving scores them."""
        model = self.model(name)
        shown = Histories.of(torch.from_numpy(self.dataset.histories(self.rows)[0]))  # a request tells no times
        with torch.inference_mode():
            scores = model.scores(shown)[:, 1:]
            best = scores.topk(10, sorted=True)
        return {"items": (best.indices + 1).tolist(), "scores": best.values.tolist()}

    def ranked(self, name: str) -> dict[str, Any]:
        """Top 10 of the pass of a teacher."""
        config = SignalsConfig(k=10, dtype="fp32", batch_size=8)
        found = self.model(name).ready(config, "cpu").rank(self.dataset, self.rows)
        return {"items": found.items.tolist(), "scores": found.scores.tolist()}

    @cache  # noqa: B019
    def hllm(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(5)
        vectors = functional.normalize(torch.randn(self.dataset.num_items + 1, 12, generator=generator), dim=1)
        vectors[0] = 0
        text = TextEmbeddings(vectors, torch.zeros(len(vectors), dtype=torch.bool))
        torch.manual_seed(3)
        config = HLLMConfig(width=16, heads=2, hidden=24, time_gaps=True, duplicate_similarity=0.9)
        return self.learn("hllm", hllm_objective(HLLM.build(config, self.dataset, text), self.dataset))

    @cache  # noqa: B019
    def e4srec(self) -> dict[str, Any]:
        self.sasrec()
        ids = self.model("sasrec").item_vectors().detach().clone()
        torch.manual_seed(3)
        config = E4SRecConfig(kind="e4srec", width=16, heads=2, layers=4, instruction_vectors=2, response_vectors=1)
        return self.learn("e4srec", NextItemObjective(E4SRec.build(config, ids), SOFTMAX, self.dataset))

    @cache  # noqa: B019
    def sasrec(self) -> dict[str, Any]:
        return self.learn("sasrec", build_student(SASRecConfig(width=16), self.dataset, loss=SOFTMAX))

    def gru4rec(self, kind: Any) -> dict[str, Any]:
        loss = RecommendationLossConfig(kind=kind, negatives=2)
        return self.learn(f"gru4rec-{kind}", build_student(GRU4RecConfig(width=16), self.dataset, loss=loss))

    def caser(self) -> dict[str, Any]:
        return self.learn("caser", build_student(CaserConfig(width=16), self.dataset, loss=SOFTMAX))

    def hstu(self) -> dict[str, Any]:
        return self.learn("hstu", build_student(HSTUConfig(width=16), self.dataset, loss=SOFTMAX))

    def distilled(self) -> dict[str, Any]:
        self.hllm()
        teacher = self.model("hllm")
        rows = np.sort(np.concatenate([self.dataset.rows(split) for split in ("train", "valid", "test")]))
        found = teacher.ready(SignalsConfig(k=10, dtype="fp32"), "cpu").rank(self.dataset, rows)
        meta = SignalsMeta(teacher="hllm", checkpoint_hash="", fingerprint=self.dataset.fingerprint, k=10)
        signals = TeacherSignals(
            meta=meta,
            rows=found.rows,
            items=found.items,
            scores=found.scores,
            target_distance=found.target_distance,
            item_embeddings=teacher.item_embeddings().detach().clone(),
            text_embeddings=None,
            log_mass_outside=None,
            content_hash="",
        )
        both = DistillationConfig(ranking=RankingDistillationConfig(form="softmax", weight=0.1))
        model = SASRecConfig(width=16)
        return self.learn(
            "distilled", build_student(model, self.dataset, loss=SOFTMAX, distillation=both, signals=signals)
        )

    def slmrec(self) -> dict[str, Any]:
        self.e4srec()
        config = SLMRecConfig(kind="slmrec", layers=2)
        objective = build_slmrec(
            config,
            self.dataset,
            load_checkpoint(self.folder / "e4srec"),
            loss=SOFTMAX,
            alignment=AlignmentConfig(blocks=2, logits=0.5),
        )
        return self.learn("slmrec", objective)

    def compressed(self) -> dict[str, Any]:
        self.e4srec()
        model = self.model("e4srec")
        assert isinstance(model, LayeredTeacher)
        low_rank = LowRankConfig(rank=0.5, layers=0.5)
        small = compress(model, CompressionConfig(neurons=0.5, low_rank=low_rank, weights="int8"))
        self.keep("compressed", small)
        valid = self.dataset.rows("valid")
        with torch.inference_mode():
            ranks = rank_targets(model_scorer(self.model("compressed")), self.dataset, valid, mask_seen=True)
        return {"mean_rank": [float(ranks.mean())]}

    def bigrec(self, constrained: bool) -> dict[str, Any]:
        config = BIGRecConfig(
            width=16, layers=2, heads=2, vocabulary=300, max_tokens=400, train_rows=48, valid_rows=8, beams=2,
            constrained=constrained, pooling="mean", title_tokens=24, history=5,
        )  # fmt: skip
        inputs = BIGRec.prepare(config, self.dataset, cache=str(self.folder / "cache"), student=str)
        objective = BIGRec.objective(config, self.dataset, inputs, seed=0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():  # with its own small weights it would write the same title for everyone
            for name, parameter in objective.model.lm.named_parameters():
                if parameter.dim() == 2:
                    scale = 0.25 if "embed" in name else 0.7
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        return self.learn("bigrec-constrained" if constrained else "bigrec-free", objective, epochs=1)


@pytest.fixture(scope="module")
def zoo(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(dataset, tmp_path_factory.mktemp("golden"))


MODELS: dict[str, Callable[[Zoo], dict[str, Any]]] = {
    "sasrec": Zoo.sasrec,
    "gru4rec-softmax": lambda zoo: zoo.gru4rec("softmax"),
    "gru4rec-bce": lambda zoo: zoo.gru4rec("bce"),
    "gru4rec-dros": lambda zoo: zoo.gru4rec("dros"),
    "gru4rec-gbce": lambda zoo: zoo.gru4rec("gbce"),
    "gru4rec-sampled-softmax": lambda zoo: zoo.gru4rec("sampled-softmax"),
    "caser": Zoo.caser,
    "hstu": Zoo.hstu,
    "distilled": Zoo.distilled,
    "hllm": Zoo.hllm,
    "e4srec": Zoo.e4srec,
    "slmrec": Zoo.slmrec,
    "compressed": Zoo.compressed,
    "bigrec-free": lambda zoo: zoo.bigrec(False),
    "bigrec-constrained": lambda zoo: zoo.bigrec(True),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_numbers_are_those_recorded(name: str, zoo: Zoo) -> None:
    found: dict[str, Any] = {"curve": MODELS[name](zoo), "recommended": zoo.recommended(name)}
    if isinstance(zoo.model(name), Teacher):
        found["ranked"] = zoo.ranked(name)
    file = HERE / f"{name}.json"
    if MODE == "record":
        file.write_text(_written(found))
    expected = json.loads(file.read_text())
    if MODE:
        assert found == expected  # floats read back from JSON are the ones that were written
        return
    assert found.keys() == expected.keys() and found["curve"].keys() == expected["curve"].keys()
    for part, values in expected["curve"].items():
        # A last bit more or less may move a target by a place: 0.004 of a mean over 80 users.
        close = {"rtol": 1e-4} if "loss" in part else {"atol": 0.01}
        np.testing.assert_allclose(found["curve"][part], values, **close, err_msg=part)
    for part in expected.keys() - {"curve"}:
        np.testing.assert_allclose(found[part]["scores"], expected[part]["scores"], rtol=1e-3, atol=1e-4, err_msg=part)
        same = np.equal(found[part]["items"], expected[part]["items"]).mean()
        assert same > 0.98, f"{part}: {same:.0%} of the places"  # neighbours that differ by a last bit change places


def _written(found: dict[str, Any]) -> str:
    """JSON with one list a line."""
    text = []
    for part, values in found.items():
        inside = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in values.items())
        text.append(f" {json.dumps(part)}: {{\n{inside}\n }}")
    return "{\n" + ",\n".join(text) + "\n}\n"
