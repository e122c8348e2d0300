import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from recsys.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.serving import export
from recsys.serving.recommender import Recommender
from recsys.students.caser import Caser
from recsys.students.config import CaserConfig, GRU4RecConfig, HSTUConfig
from recsys.students.gru4rec import GRU4Rec
from recsys.students.hstu import HSTU

WITHOUT_THE_PROJECT = """
import json, sys
for name in ("recsys", "ray_jobs", "ray"):
    sys.modules[name] = None
import torch
files = {"items.json": "", "model.json": ""}
model = torch.export.load(sys.argv[1], extra_files=files).module()
ids = json.loads(files["items.json"])
histories = json.loads(sys.argv[2])
rows = [[ids.index(item) for item in history] for history in histories]
longest = json.loads(files["model.json"])["max_history"] if "fixed" in sys.argv else max(map(len, rows))
items = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
with torch.inference_mode():
    print(json.dumps([[ids[i] for i in best] for best in model(items).topk(5).indices.tolist()]))
"""


@pytest.fixture
def checkpoint(random_initialised: Path) -> Checkpoint:
    return load_checkpoint(random_initialised)


@pytest.fixture
def gru(dataset: PreparedDataset, tmp_path: Path) -> Checkpoint:
    torch.manual_seed(0)
    model = GRU4Rec(GRU4RecConfig(width=16, similarity="cosine"), num_items=dataset.num_items)
    save_checkpoint(str(tmp_path / "gru"), model, dataset)
    return load_checkpoint(tmp_path / "gru")


@pytest.fixture
def caser(dataset: PreparedDataset, tmp_path: Path) -> Checkpoint:
    torch.manual_seed(0)
    save_checkpoint(str(tmp_path / "caser"), Caser(CaserConfig(width=16), num_items=dataset.num_items), dataset)
    return load_checkpoint(tmp_path / "caser")


@pytest.fixture
def hstu(dataset: PreparedDataset, tmp_path: Path) -> Checkpoint:
    torch.manual_seed(0)
    save_checkpoint(str(tmp_path / "hstu"), HSTU(HSTUConfig(width=16), num_items=dataset.num_items), dataset)
    return load_checkpoint(tmp_path / "hstu")


def vectors(path: Path) -> np.ndarray:
    column = pq.read_table(path)["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def test_products_of_the_vectors_are_the_scores(gru: Checkpoint, dataset: PreparedDataset, tmp_path: Path) -> None:
    assert export.write_items(gru, tmp_path / "items.parquet") == 16
    assert export.write_queries(gru, dataset, tmp_path / "queries.parquet", batch_size=5) == dataset.num_users
    items, users = pq.read_table(tmp_path / "items.parquet"), pq.read_table(tmp_path / "queries.parquet")
    assert users["user"].to_pylist() == dataset.user_ids and items["title"][2].as_py() == "Film number 3"
    scores = vectors(tmp_path / "queries.parquet") @ vectors(tmp_path / "items.parquet").T
    ids = items["item_id"].to_pylist()
    for user in range(dataset.num_users):
        history = [f"i{n}" for n in dataset.items[dataset.offsets[user] : dataset.offsets[user + 1]]]
        (answer,) = Recommender(gru).rank([history], 5, mask_seen=False)
        assert [ids[i] for i in np.argsort(-scores[user])[:5]] == answer.items
        assert np.sort(scores[user])[::-1][:5] == pytest.approx(answer.scores, abs=1e-4)


def test_users_of_other_items_alone_have_no_vector(
    checkpoint: Checkpoint, random_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    strangers = random_dataset(users=3)
    ids = ["", *[f"x{n}" for n in range(1, 61)]]
    ids[int(strangers.items[0])] = "i1"  # which the first user has met
    object.__setattr__(strangers.catalogue, "item_ids", ids)
    met = [int(strangers.items[0]) in strangers.items[slice(*strangers.offsets[u : u + 2])] for u in range(3)]
    assert export.write_queries(checkpoint, strangers, tmp_path / "q.parquet") == sum(met) >= 1


@pytest.mark.parametrize("kind", ["checkpoint", "gru", "caser", "hstu"])
def test_the_file_recommends_the_same_without_this_project(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made: Checkpoint = request.getfixturevalue(kind)
    parity = export.write_model(made, tmp_path / "model.pt2")
    assert parity.difference <= export.TOLERANCE and parity.same_best == 1 and parity.histories > 40
    assert parity.dynamic_length == (kind != "gru")
    histories = [["i3"], ["i1", "i2", "i60"], ["i4"] * 8, ["i5", "i6"], ["i7"]]
    command = [sys.executable, "-I", "-W", "ignore", "-c", WITHOUT_THE_PROJECT, str(tmp_path / "model.pt2")]
    asked = [json.dumps(histories), "" if parity.dynamic_length else "fixed"]
    done = subprocess.run([*command, *asked], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == Recommender(made).recommend(histories, 5, mask_seen=False)


def test_a_file_that_scores_otherwise_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: export.Scorer, items: torch.Tensor) -> torch.Tensor:
        return self.model.hidden(export.Histories(items, (items > 0).sum(1)), self.vectors)[:, 0] @ self.vectors.T

    monkeypatch.setattr(export.Scorer, "forward", forward)  # reads the first item alone
    with pytest.raises(UserError, match="the exported sasrec scores otherwise than its checkpoint"):
        export.write_model(checkpoint, tmp_path / "model.pt2")


def test_models_without_vectors_are_refused(dataset: PreparedDataset, tmp_path: Path) -> None:
    from recsys.rules.config import RULES
    from recsys.rules.fit import fit_rules

    fit_rules(dataset, report=lambda _: None)[RULES].save(str(tmp_path / "rules"), dataset)
    with pytest.raises(UserError, match="a model of kind sequential-rules are no dot products"):
        export.write_items(load_checkpoint(tmp_path / "rules"), tmp_path / "items.parquet")
