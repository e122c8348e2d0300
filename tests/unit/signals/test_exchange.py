from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from ray_jobs import cli
from recsys import storage
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.signals.exchange import export_signals, import_signals
from recsys.signals.signals import SignalsMeta, TeacherSignals, rankings_table
from recsys.stages import exchange

K = 3


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    return random_dataset(users=5, items=20, longest=9)


@pytest.fixture
def files(dataset: PreparedDataset, tmp_path: Path) -> Path:
    """What another LLM recommender left: items from 0, one line a training row, no order said."""
    folder = tmp_path / "files"
    folder.mkdir()
    generator = np.random.default_rng(1)
    rows = dataset.rows("train")
    ranking = np.stack([generator.permutation(20)[:K] for _ in rows])
    ranking[0, 1] = dataset.items[rows[0]] - 1  # the true item is second
    ranking[0, [0, 2]] = [n for n in range(20) if n != ranking[0, 1]][:2]
    np.savetxt(folder / "myrank_train.txt", ranking)  # as numpy writes by default: 1.0e+00
    np.savetxt(folder / "confidence_train.txt", np.tile([0.5, 1.5, 2.5], (len(rows), 1)))
    torch.save(torch.arange(40.0).reshape(20, 2), folder / "all_embeddings.pt")
    return folder


def line(path: Path, number: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines) + "\n")


def test_import_is_what_the_files_say(dataset: PreparedDataset, files: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "signals")
    import_signals(files, dataset, uri)
    signals = TeacherSignals.load(uri, dataset)
    assert signals.rows.tolist() == dataset.rows("train").tolist()
    assert np.array_equal(signals.items, np.loadtxt(files / "myrank_train.txt").astype(int) + 1)
    assert not signals.meta.higher_is_better
    assert signals.scores[4].tolist() == [0.5, 1.5, 2.5]
    for index, row in enumerate(signals.rows):  # naive: the distance of the true item, where it is there
        where = np.flatnonzero(signals.items[index] == dataset.items[row])
        expected = [0.5, 1.5, 2.5][where[0]] if len(where) else np.nan
        assert np.array_equal(signals.target_distance[index], np.float32(expected), equal_nan=True)
    assert signals.target_distance[0] == 1.5
    assert signals.item_embeddings[7].tolist() == [12.0, 13.0]
    assert signals.item_embeddings[0].tolist() == [0.0, 0.0]


def test_a_global_time_split_is_in_the_order_of_time(dataset: PreparedDataset, files: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    times = np.random.default_rng(3).permutation(len(dataset.items)).astype(np.int64)
    dataset = replace(dataset, protocol="global_time", timestamps=times, fingerprint="")
    import_signals(files, dataset, str(tmp_path / "signals"))
    signals = TeacherSignals.load(str(tmp_path / "signals"), dataset)
    first = min(dataset.rows("train"), key=lambda row: times[row])
    index = signals.rows.tolist().index(first)
    assert (signals.items[index] - 1).tolist() == np.loadtxt(files / "myrank_train.txt")[0].astype(int).tolist()


def test_export_and_import_give_the_same_signals(dataset: PreparedDataset, tmp_path: Path) -> None:
    rows = np.concatenate([dataset.rows(split) for split in ("train", "valid")])
    rows.sort()
    generator = np.random.default_rng(2)
    items = np.stack([generator.permutation(20)[:K] + 1 for _ in rows])
    scores = -np.sort(-generator.normal(size=(len(rows), K)), axis=1)
    uri = str(tmp_path / "ours")
    with storage.new_artifact(uri) as directory:
        (directory / "rankings").mkdir()
        table = rankings_table(rows, items, scores, np.ones(len(rows)))
        pq.write_table(table, directory / "rankings" / "part-00000.parquet")
        save_file({"item_embeddings": torch.randn(21, 4)}, directory / "item_embeddings.safetensors")
        meta = SignalsMeta(teacher="hllm", checkpoint_hash="c", fingerprint=dataset.fingerprint, k=K)
        (directory / "signals.json").write_text(meta.to_json())
    ours = TeacherSignals.load(uri, dataset)
    folder = tmp_path / "folder"
    assert export_signals(ours, dataset, folder) == len(dataset.rows("train"))
    for name in ("rows.txt", "myrank_train.txt", "confidence_train.txt"):  # another order of rows, said by rows.txt
        lines = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join(reversed(lines)) + "\n")
    import_signals(folder, dataset, str(tmp_path / "theirs"))
    theirs = TeacherSignals.load(str(tmp_path / "theirs"), dataset)
    kept = np.isin(ours.rows, dataset.rows("train"))
    assert np.array_equal(theirs.rows, ours.rows[kept])
    assert np.array_equal(theirs.items, ours.items[kept])
    distance = ours.scores[kept].max(axis=1, keepdims=True) - ours.scores[kept]
    assert np.allclose(theirs.scores, distance, atol=1e-5)
    assert torch.equal(theirs.item_embeddings[1:], ours.item_embeddings[1:])
    with pytest.raises(UserError, match="not empty"):
        export_signals(ours, dataset, folder)


def test_items_in_another_order(dataset: PreparedDataset, files: Path, tmp_path: Path) -> None:
    (files / "items.txt").write_text("\n".join(reversed(dataset.catalogue.item_ids[1:])) + "\n")
    import_signals(files, dataset, str(tmp_path / "signals"))
    signals = TeacherSignals.load(str(tmp_path / "signals"), dataset)
    assert np.array_equal(signals.items, 20 - np.loadtxt(files / "myrank_train.txt").astype(int))
    assert signals.item_embeddings[20].tolist() == [0.0, 1.0]


def test_ids_may_hold_what_python_counts_as_line_ends(dataset: PreparedDataset, files: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    ids = ["", *(f"a\u2028b\x85\x0b{n}" for n in range(1, 21))]
    dataset = replace(dataset, catalogue=replace(dataset.catalogue, item_ids=ids), fingerprint="")
    import_signals(files, dataset, str(tmp_path / "signals"))
    signals = TeacherSignals.load(str(tmp_path / "signals"), dataset)
    export_signals(signals, dataset, tmp_path / "folder")
    import_signals(tmp_path / "folder", dataset, str(tmp_path / "again"))
    again = TeacherSignals.load(str(tmp_path / "again"), dataset)
    assert np.array_equal(again.items, signals.items)
    assert torch.equal(again.item_embeddings, signals.item_embeddings)


@pytest.mark.parametrize(
    ("name", "number", "text", "says"),
    [
        ("myrank_train.txt", 3, "1 20 2", "myrank_train.txt line 3: item 20 is not one of 0..19"),
        ("myrank_train.txt", 2, "4 7 4", "myrank_train.txt line 2: item 4 stands twice"),
        ("myrank_train.txt", 4, "1 2.5 3", "line 4: item 2.5"),
        ("myrank_train.txt", 5, "1 2", "line 5: 2 numbers, but line 1 has 3"),
        ("myrank_train.txt", 5, "1 two 3", "line 5: could not convert"),
        ("confidence_train.txt", 6, "1 nan 3", "confidence_train.txt line 6: nan"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(
    dataset: PreparedDataset, files: Path, tmp_path: Path, name: str, number: int, text: str, says: str
) -> None:
    line(files / name, number, text)
    with pytest.raises(UserError, match=says):
        import_signals(files, dataset, str(tmp_path / "signals"))
    assert not (tmp_path / "signals").exists()


def test_wrong_counts_are_refused(dataset: PreparedDataset, files: Path, tmp_path: Path) -> None:
    whole = (files / "myrank_train.txt").read_text()
    (files / "myrank_train.txt").write_text(whole.partition("\n")[2])
    with pytest.raises(UserError, match="lines, but there are"):
        import_signals(files, dataset, str(tmp_path / "signals"))
    (files / "myrank_train.txt").write_text(whole)
    torch.save(torch.zeros(19, 2), files / "all_embeddings.pt")
    with pytest.raises(UserError, match="a tensor of 20 rows"):
        import_signals(files, dataset, str(tmp_path / "signals"))


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code of a pickle was run",))


def test_no_code_of_a_pickle_is_run(
    dataset: PreparedDataset, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(_Evil(), files / "all_embeddings.pt")
    with pytest.raises(UserError, match=r"all_embeddings\.pt holds more than a tensor"):
        import_signals(files, dataset, str(tmp_path / "signals"))
    assert capsys.readouterr().out == ""


def test_the_job(dataset: PreparedDataset, files: Path, tmp_path: Path) -> None:
    settings = cli.load_settings(["--storage", str(tmp_path), "name=p"])
    dataset.write(settings.layout.dataset)
    exchange.make(settings, folder=files, action="import")
    with pytest.raises(UserError, match="--force replaces"):
        exchange.make(settings, folder=files, action="import")
    exchange.make(settings, folder=tmp_path / "out", action="export")
    for name in ("myrank_train.txt", "confidence_train.txt"):
        assert np.array_equal(np.loadtxt(tmp_path / "out" / name), np.loadtxt(files / name))
