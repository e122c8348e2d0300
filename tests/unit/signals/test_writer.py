import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from recsys import storage
from recsys.data.prepared import PreparedDataset
from recsys.data.splits import SPLITS
from recsys.errors import UserError
from recsys.signals.signals import SignalsMeta, TeacherSignals
from recsys.signals.writer import ShardPlan, SignalsWriter

K = 4


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    return random_dataset()


@pytest.fixture
def plan(dataset: PreparedDataset) -> ShardPlan:
    return ShardPlan.of(dataset, SPLITS, 50)


def contents(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Made-up rankings that differ from row to row."""
    items = (rows[:, None] + np.arange(K)) % 60 + 1
    return rows, items.astype(np.int32), (items / 7).astype(np.float32), (rows / 9).astype(np.float32)


def write(writer: SignalsWriter, plan: ShardPlan, *numbers: int) -> None:
    for number in numbers:
        writer.write_shard(number, *contents(plan.shard(number)), seconds=0.5)


def finalise(writer: SignalsWriter, plan: ShardPlan, dataset: PreparedDataset) -> None:
    meta = SignalsMeta(teacher="hllm", checkpoint_hash="c", fingerprint=dataset.fingerprint, k=K)
    writer.finalise(plan, meta, torch.eye(61), torch.ones(61, 3))


def test_every_row_is_in_exactly_one_shard(dataset: PreparedDataset, plan: ShardPlan) -> None:
    shards = [plan.shard(number) for number in range(len(plan))]
    assert all(len(shard) == 50 for shard in shards[:-1])
    assert 0 < len(shards[-1]) <= 50
    expected = sorted(row for split in SPLITS for row in dataset.rows(split).tolist())
    assert np.concatenate(shards).tolist() == expected
    assert ShardPlan.of(dataset, ("test",), 5).rows.tolist() == dataset.rows("test").tolist()


def test_training_rows_may_be_a_sample(dataset: PreparedDataset) -> None:
    plan = ShardPlan.of(dataset, SPLITS, 50, train_rows=5)
    train = plan.rows[np.isin(plan.rows, dataset.rows("train"))]
    assert len(train) == 5
    assert len(plan.rows) == 5 + len(dataset.rows("valid")) + len(dataset.rows("test")) > 5 + 5 + 5
    assert np.array_equal(plan.rows, ShardPlan.of(dataset, SPLITS, 50, train_rows=5).rows)
    assert np.array_equal(
        ShardPlan.of(dataset, SPLITS, 50, train_rows=10**6).rows, ShardPlan.of(dataset, SPLITS, 50).rows
    )


def test_what_is_written_is_read(dataset: PreparedDataset, plan: ShardPlan, tmp_path: Path) -> None:
    uri = str(tmp_path / "signals")
    writer = SignalsWriter(uri, key="k1", k=K)
    write(writer, plan, *reversed(range(len(plan))))
    finalise(writer, plan, dataset)
    signals = TeacherSignals.load(uri, dataset)
    rows, items, scores, distance = contents(plan.rows)
    assert np.array_equal(signals.rows, rows)
    assert np.array_equal(signals.items, items)
    assert np.array_equal(signals.scores, scores)
    assert np.array_equal(signals.target_distance, distance)
    assert torch.equal(signals.item_embeddings, torch.eye(61))
    assert signals.text_embeddings is not None
    assert signals.meta.cost["teacher_seconds"] == 0.5 * len(plan)
    manifest = storage.read_manifest(uri)
    assert manifest is not None
    assert manifest.key == "k1"
    assert [path.name for path in tmp_path.iterdir()] == ["signals"]


def test_parts_may_be_in_any_order(dataset: PreparedDataset, plan: ShardPlan, tmp_path: Path) -> None:
    uri = str(tmp_path / "signals")
    writer = SignalsWriter(uri, key="k1", k=K)
    for number in range(len(plan)):
        rows = plan.shard(number)
        writer.write_shard(number, *contents(rows), seconds=0.5, log_mass=-rows.astype(np.float32))
    meta = SignalsMeta(teacher="hllm", checkpoint_hash="c", fingerprint=dataset.fingerprint, k=K, log_mass=True)
    writer.finalise(plan, meta, torch.eye(61), None)
    first, second = (tmp_path / "signals" / "rankings" / f"part-0000{number}.parquet" for number in (0, 1))
    contents_of_first = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(contents_of_first)
    storage.seal(uri)
    signals = TeacherSignals.load(uri, dataset)
    rows, items, scores, distance = contents(plan.rows)
    assert np.array_equal(signals.rows, rows) and np.array_equal(signals.items, items)
    assert np.array_equal(signals.scores, scores) and np.array_equal(signals.target_distance, distance)
    assert signals.log_mass_outside is not None
    assert np.array_equal(signals.log_mass_outside, -rows.astype(np.float32))


def test_shards_beyond_the_plan_are_left_out(dataset: PreparedDataset, plan: ShardPlan, tmp_path: Path) -> None:
    uri = str(tmp_path / "signals")
    writer = SignalsWriter(uri, key="k1", k=K)
    write(writer, plan, 0, 1, 2)
    finalise(writer, ShardPlan(plan.rows[:100], 50), dataset)
    assert TeacherSignals.load(uri, dataset).rows.tolist() == plan.rows[:100].tolist()


def test_an_interrupted_pass_knows_what_is_missing(dataset: PreparedDataset, plan: ShardPlan, tmp_path: Path) -> None:
    uri = str(tmp_path / "signals")
    write(SignalsWriter(uri, key="k1", k=K), plan, 0, 2)
    assert not storage.exists(uri)
    writer = SignalsWriter(uri, key="k1", k=K)
    assert writer.missing(plan) == [n for n in range(len(plan)) if n not in (0, 2)]
    part = Path(writer.work) / "rankings" / "part-00002.parquet"
    part.write_bytes(part.read_bytes()[:100])
    assert 2 in writer.missing(plan)
    (part.parent / "part-00001.parquet.1234abcd.tmp").write_bytes(b"left by a killed writer")
    write(writer, plan, *writer.missing(plan))
    finalise(writer, plan, dataset)
    assert np.array_equal(TeacherSignals.load(uri, dataset).rows, plan.rows)
    assert not list((tmp_path / "signals").rglob("*.tmp"))


def test_passes_of_other_keys_are_never_mixed(dataset: PreparedDataset, plan: ShardPlan, tmp_path: Path) -> None:
    uri = str(tmp_path / "signals")
    write(SignalsWriter(uri, key="k1", k=K), plan, *range(len(plan)))
    other = SignalsWriter(uri, key="k2", k=K)
    assert other.missing(plan) == list(range(len(plan)))
    write(other, plan, *range(len(plan)))
    finalise(other, plan, dataset)
    write(SignalsWriter(uri, key="k3", k=K), plan, 0)
    finalise(SignalsWriter(uri, key="k3", k=K), ShardPlan(plan.shard(0), 50), dataset)
    assert len(TeacherSignals.load(uri, dataset).rows) == 50  # replaced as a whole
    assert [path.name for path in tmp_path.iterdir()] == ["signals"]


def test_a_pass_of_another_set_goes_on(dataset: PreparedDataset, plan: ShardPlan, tmp_path: Path) -> None:
    other = SignalsWriter(str(tmp_path / "signals-other"), key="k2", k=K)
    write(other, plan, 0, 1)
    writer = SignalsWriter(str(tmp_path / "signals"), key="k1", k=K)
    write(writer, plan, *range(len(plan)))
    finalise(writer, plan, dataset)
    assert other.missing(plan) == list(range(2, len(plan)))


def test_a_shard_with_other_rows_or_damage_is_named(dataset: PreparedDataset, plan: ShardPlan, tmp_path: Path) -> None:
    writer = SignalsWriter(str(tmp_path / "signals"), key="k1", k=K)
    write(writer, plan, *range(len(plan)))
    writer.write_shard(1, *contents(plan.shard(0)), seconds=1.0)
    with pytest.raises(UserError, match=r"part-00001\.parquet holds other rows than planned"):
        finalise(writer, plan, dataset)
    part = Path(writer.work) / "rankings" / "part-00001.parquet"
    part.write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"part-00001\.parquet is damaged"):
        finalise(writer, plan, dataset)
    assert not storage.exists(str(tmp_path / "signals"))


def test_a_pass_killed_between_sealing_and_moving_is_finished(
    dataset: PreparedDataset, plan: ShardPlan, tmp_path: Path
) -> None:
    uri = str(tmp_path / "signals")
    writer = SignalsWriter(uri, key="k1", k=K)
    write(writer, plan, *range(len(plan)))
    finalise(writer, plan, dataset)
    Path(uri).rename(writer.work)
    again = SignalsWriter(uri, key="k1", k=K)
    assert again.missing(plan) == []
    finalise(again, plan, dataset)
    assert np.array_equal(TeacherSignals.load(uri, dataset).rows, plan.rows)


def rewritten(directory: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Change the columns of the first shard and seal again, as a foreign tool would leave it."""
    part = directory / "rankings" / "part-00000.parquet"
    table = pq.read_table(part)
    columns = {
        "row": table["row"].to_numpy().copy(),
        "items": np.array(table["items"].to_pylist(), dtype=np.int32),
        "scores": np.array(table["scores"].to_pylist(), dtype=np.float32),
    }
    change(columns)
    writer = SignalsWriter(str(directory.parent / "x"), key="x", k=K)
    distance = table["target_distance"].to_numpy()
    writer.write_shard(0, columns["row"], columns["items"], columns["scores"], distance, seconds=0.0)
    part.write_bytes((Path(writer.work) / "rankings" / "part-00000.parquet").read_bytes())
    storage.seal(str(directory))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("scores", np.nan, "1 rows have NaN scores"),
        ("items", 61, r"item ids lie outside 1\.\.60"),
        ("items", 0, r"item ids lie outside 1\.\.60"),
        ("row", 99_999, "row ids lie outside the dataset's"),
        ("row", 2, "1 rows are there twice"),
    ],
)
def test_signals_that_cannot_be_are_refused(
    dataset: PreparedDataset, plan: ShardPlan, tmp_path: Path, column: str, value: float, message: str
) -> None:
    writer = SignalsWriter(str(tmp_path / "signals"), key="k1", k=K)
    write(writer, plan, *range(len(plan)))
    finalise(writer, plan, dataset)

    def change(columns: dict[str, np.ndarray]) -> None:
        columns[column].reshape(50, -1)[0, 0] = value

    rewritten(tmp_path / "signals", change)
    with pytest.raises(UserError, match=message):
        TeacherSignals.load(str(tmp_path / "signals"), dataset)


def test_signals_of_another_dataset_or_form_are_refused(
    random_dataset: Callable[..., PreparedDataset], dataset: PreparedDataset, plan: ShardPlan, tmp_path: Path
) -> None:
    uri = str(tmp_path / "signals")
    with pytest.raises(UserError, match="does not exist"):
        TeacherSignals.load(uri, dataset)
    writer = SignalsWriter(uri, key="k1", k=K)
    write(writer, plan, *range(len(plan)))
    finalise(writer, plan, dataset)
    other = random_dataset(seed=1)
    with pytest.raises(UserError, match=f"made for dataset {dataset.fingerprint[:12]}.*{other.fingerprint[:12]}"):
        TeacherSignals.load(uri, other)
    save_file({"item_embeddings": torch.ones(7, 2)}, tmp_path / "signals" / "item_embeddings.safetensors")
    storage.seal(uri)
    with pytest.raises(UserError, match="7 item embeddings for 60 items"):
        TeacherSignals.load(uri, dataset)
    meta = json.loads((tmp_path / "signals" / "signals.json").read_text())
    (tmp_path / "signals" / "signals.json").write_text(json.dumps({**meta, "colour": "blue"}))
    with pytest.raises(UserError, match="damaged"):
        TeacherSignals.load(uri, dataset)
    storage.seal(uri)
    with pytest.raises(UserError, match="not in the expected form"):
        TeacherSignals.load(uri, dataset)


def test_lookup_finds_the_signals_of_a_row(dataset: PreparedDataset, plan: ShardPlan, tmp_path: Path) -> None:
    writer = SignalsWriter(str(tmp_path / "signals"), key="k1", k=K)
    write(writer, plan, *range(len(plan)))
    finalise(writer, plan, dataset)
    signals = TeacherSignals.load(str(tmp_path / "signals"), dataset)
    table = signals.lookup(len(dataset.items))
    assert np.array_equal(signals.rows[table[plan.rows]], plan.rows)
    assert (table[dataset.offsets[:-1]] == -1).all()


def test_rows_set_aside_are_counted_and_not_missing(dataset: PreparedDataset, plan: ShardPlan, tmp_path: Path) -> None:
    uri = str(tmp_path / "signals")
    writer = SignalsWriter(uri, key="k1", k=K)
    write(writer, plan, *range(1, len(plan)))
    rows = plan.shard(0)
    writer.write_shard(0, *contents(np.delete(rows, [3, 7])), seconds=0.5, aside=1)
    assert writer.missing(plan) == [0], "two are missing, one is accounted for"
    writer.write_shard(0, *contents(np.delete(rows, [3, 7])), seconds=0.5, aside=2)
    assert writer.missing(plan) == []
    finalise(writer, plan, dataset)
    signals = TeacherSignals.load(uri, dataset)
    assert signals.rows.tolist() == np.delete(plan.rows, [3, 7]).tolist()
    assert signals.meta.cost["rows_set_aside"] == 2


def test_a_shard_may_be_empty_but_not_the_signals(dataset: PreparedDataset, plan: ShardPlan, tmp_path: Path) -> None:
    uri = str(tmp_path / "signals")
    writer = SignalsWriter(uri, key="k1", k=K)
    none = plan.rows[:0]
    for number in range(len(plan)):
        writer.write_shard(number, *contents(none), seconds=0.5, aside=len(plan.shard(number)))
    assert writer.missing(plan) == []
    with pytest.raises(UserError, match=r"not finite for (\d+) of \1 rows; .* train it again"):
        finalise(writer, plan, dataset)
    assert not storage.exists(uri)
    write(writer, plan, *range(1, len(plan)))
    meta = SignalsMeta(teacher="hllm", checkpoint_hash="c", fingerprint=dataset.fingerprint, k=K)
    splits = {split: dataset.rows(split) for split in SPLITS}
    aside = writer.finalise(plan, meta, torch.eye(61), None, splits=splits)
    assert aside.tolist() == plan.shard(0).tolist()
    signals = TeacherSignals.load(uri, dataset)
    assert signals.rows.tolist() == plan.rows[50:].tolist()
    assert signals.meta.rows == {split: int(np.isin(rows, signals.rows).sum()) for split, rows in splits.items()}


def test_tokens_are_summed_and_the_mass_outside_is_read(
    dataset: PreparedDataset, plan: ShardPlan, tmp_path: Path
) -> None:
    uri = str(tmp_path / "signals")
    writer = SignalsWriter(uri, key="k1", k=K)
    for number in range(len(plan)):
        rows = plan.shard(number)
        writer.write_shard(number, *contents(rows), seconds=0.5, tokens=10, log_mass=-rows.astype(np.float32))
    meta = SignalsMeta(teacher="hllm", checkpoint_hash="c", fingerprint=dataset.fingerprint, k=K, log_mass=True)
    writer.finalise(plan, meta, torch.eye(61), None, devices=4)
    signals = TeacherSignals.load(uri, dataset)
    assert signals.meta.cost["device_seconds"] == 2.0 * len(plan)
    assert signals.log_mass_outside is not None
    assert signals.log_mass_outside.tolist() == (-plan.rows).tolist()
    assert signals.meta.cost["tokens"] == 10 * len(plan)
    assert signals.meta.cost["tokens_per_teacher_second"] == 20.0
