"""The files are read as the DLLM2Rec code reads them (main.py), and compared with the dataset's rows one by one."""

import ast
import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ray_jobs import cli
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.signals.exchange_data import export_project
from recsys.signals.signals import SignalsMeta, TeacherSignals
from recsys.stages import exchange

K = 3


@pytest.fixture(params=["leave_one_out", "global_time"])
def dataset(random_dataset: Callable[..., PreparedDataset], request: pytest.FixtureRequest) -> PreparedDataset:
    made = random_dataset(users=9, items=20, longest=25, max_history=12)
    times = np.random.default_rng(3).permutation(len(made.items)).astype(np.int64)
    return replace(made, protocol=request.param, timestamps=times, fingerprint="")


def signals_of(dataset: PreparedDataset, width: int = 5) -> TeacherSignals:
    rows = np.sort(dataset.rows("train"))
    generator = np.random.default_rng(2)
    return TeacherSignals(
        meta=SignalsMeta(teacher="t", checkpoint_hash="c", fingerprint=dataset.fingerprint, k=K),
        rows=rows,
        items=np.stack([generator.permutation(20)[:K] + 1 for _ in rows]).astype(np.int32),
        scores=-np.sort(-generator.normal(size=(len(rows), K)).astype(np.float32)),
        target_distance=np.ones(len(rows), np.float32),
        item_embeddings=torch.randn(21, width),
        text_embeddings=None,
        log_mass_outside=None,
        content_hash="h",
    )


def check(dataset: PreparedDataset, row: int, seq: list[int], len_seq: int, following: float) -> None:
    start = dataset.offsets[np.searchsorted(dataset.offsets, row, side="right") - 1]
    history = (dataset.items[start:row] - 1).tolist()[-10:]
    assert seq == history + [20] * (10 - len(history)), "oldest first, padded with the number of items at the end"
    assert len_seq == len(history) >= 1
    assert following == dataset.items[row] - 1


def test_every_row_is_what_the_code_expects(dataset: PreparedDataset, tmp_path: Path) -> None:
    signals = signals_of(dataset)
    assert export_project(signals, dataset, tmp_path, "shop") == len(signals.rows)
    data, tocf = tmp_path / "data" / "shop", tmp_path / "tocf" / "shop"
    statistics = pd.read_pickle(data / "data_statis.df")
    assert statistics["seq_size"][0] == 10 and statistics["item_num"][0] == 20

    def in_order(split: Any) -> list[int]:
        rows = sorted(dataset.rows(split).tolist())
        return sorted(rows, key=lambda row: dataset.timestamps[row]) if dataset.protocol == "global_time" else rows

    train = pd.read_pickle(data / "train_data.df")
    ranking, distance = np.loadtxt(tocf / "myrank_train.txt"), np.loadtxt(tocf / "confidence_train.txt")
    assert train.index.tolist() == list(range(len(signals.rows))), "a row's index is its line in the files"
    place = {int(row): at for at, row in enumerate(signals.rows)}
    for line, row in enumerate(in_order("train")):
        check(dataset, row, train["seq"][line], train["len_seq"][line], train["next"][line])
        at = place[row]
        assert ranking[line].tolist() == (signals.items[at] - 1).tolist()
        assert np.allclose(distance[line], signals.scores[at, 0] - signals.scores[at], atol=1e-5)
    batch = train.sample(n=4).to_dict()
    assert all(type(item) is int for seq in batch["seq"].values() for item in seq)
    torch.LongTensor(list(batch["seq"].values()))
    for file, split in (("val_data.csv", "valid"), ("test_data.csv", "test")):
        with (data / file).open() as stream:
            read = list(csv.DictReader(stream))
        for row, values in zip(in_order(split), read, strict=True):
            check(dataset, row, ast.literal_eval(values["seq"]), int(values["len_seq"]), float(values["next"]))
    embeddings = torch.load(tocf / "all_embeddings.pt", weights_only=True)
    assert embeddings.shape == (20, 4096)
    assert torch.equal(embeddings[:, :5], signals.item_embeddings[1:]) and not embeddings[:, 5:].any()
    assert sorted(each.name for each in tmp_path.rglob("*") if each.name.startswith(".")) == []


def test_names_of_columns_are_plain_objects(dataset: PreparedDataset, tmp_path: Path) -> None:
    export_project(signals_of(dataset), dataset, tmp_path, "shop")
    frame = pd.read_pickle(tmp_path / "data/shop/train_data.df")
    assert frame.columns.dtype == object and frame["seq"].dtype == object


def test_what_does_not_fit_is_refused_and_nothing_is_left(dataset: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"have 4097 dimensions, but the DLLM2Rec code reads 4096"):
        export_project(signals_of(dataset, width=4097), dataset, tmp_path, "shop")
    signals = signals_of(dataset)
    fewer = replace(signals, rows=signals.rows[1:], items=signals.items[1:], scores=signals.scores[1:])
    with pytest.raises(UserError, match=r"1 of .* training rows have no signals"):
        export_project(fewer, dataset, tmp_path, "shop")
    assert not any(path.is_file() for path in tmp_path.rglob("*")) and not list(tmp_path.rglob("*shop*"))
    export_project(signals, dataset, tmp_path, "shop")
    with pytest.raises(UserError, match="shop is there already; remove it"):
        export_project(signals, dataset, tmp_path, "shop")
    export_project(signals, dataset, tmp_path, "other")  # beside it, in the same checkout


def test_the_job_says_how_to_run_it(
    dataset: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = cli.load_settings(["--storage", str(tmp_path / "runs"), "name=p"])
    dataset.write(settings.layout.dataset)
    folder = tmp_path / "signals"
    export_project(signals_of(dataset), dataset, folder, "p")
    exchange.make(settings, folder=folder / "tocf" / "p", action="import")
    exchange.make(settings, folder=tmp_path / "checkout", action="export-project")
    said = capsys.readouterr().out
    assert "python main.py --data p --model_name SASRec --candidate_topk 3" in said
    for file in ("myrank_train.txt", "rows.txt"):
        one, other = (root / "tocf" / "p" / file for root in (folder, tmp_path / "checkout"))
        assert one.read_text() == other.read_text()
