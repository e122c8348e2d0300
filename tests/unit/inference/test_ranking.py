from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys import checkpoint
from recsys.checkpoint import save_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.data.splits import SPLITS
from recsys.decoders.dtypes import resolve_dtype
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.inference.engine import TeacherEngine
from recsys.inference.ranking import check_k, rank_rows, top_items, window_starts
from recsys.signals.rankings import join_rankings
from recsys.teachers.config import E4SRecConfig, HLLMConfig
from recsys.teachers.e4srec import E4SRec
from recsys.teachers.hllm import HLLM
from recsys.teachers.layered import LayeredTeacher


def untrained(dataset: PreparedDataset) -> HLLM:
    torch.manual_seed(1)
    model = HLLM(HLLMConfig(width=16, heads=2, hidden=16, item_width=8), num_items=dataset.num_items)
    model.text.normal_()
    return model.eval()


def every_row(dataset: PreparedDataset) -> np.ndarray:
    return np.sort(np.concatenate([dataset.rows(split) for split in SPLITS]))


def test_windows_give_every_row_enough_of_its_past(random_dataset: Callable[..., PreparedDataset]) -> None:
    for limit in (1, 2, 7, 8):
        dataset = random_dataset(max_history=limit)
        rows = every_row(dataset)
        starts = window_starts(dataset, rows)
        for row, start in zip(rows, starts, strict=True):
            first = dataset.offsets[dataset.users_of(np.array([row]))[0]]
            past, context = row - first, row - start
            assert start >= first
            assert min(past, max(limit // 2, 1)) <= context <= limit
            if row in dataset.rows("valid") or row in dataset.rows("test"):
                assert context == min(past, limit)


@torch.inference_mode()
@pytest.mark.parametrize("mask_history", [True, False])
def test_rankings_equal_those_of_each_row_alone(
    random_dataset: Callable[..., PreparedDataset], mask_history: bool
) -> None:
    dataset = random_dataset()
    model = untrained(dataset)
    rows = every_row(dataset)
    result = rank_rows(TeacherEngine(model, "fp32"), dataset, rows, k=5, mask_history=mask_history, batch_size=3)
    assert np.array_equal(result.rows, rows)
    vectors = model.item_vectors()
    for i, (row, start) in enumerate(zip(rows, window_starts(dataset, rows), strict=True)):
        hidden = model.hidden(Histories.of(torch.from_numpy(dataset.items[start:row].astype(np.int64))[None]))[0, -1]
        scores = vectors @ hidden
        scores[0] = -torch.inf
        if mask_history:
            scores[dataset.seen(row).astype(np.int64)] = -torch.inf
        values, best = scores.topk(5)
        torch.testing.assert_close(torch.from_numpy(result.scores[i]), values, atol=1e-4, rtol=0)
        assert result.items[i].tolist() == best.tolist()
        distance = (functional.normalize(hidden, dim=0) - vectors[int(dataset.items[row])]).norm()
        assert result.target_distance[i] == pytest.approx(float(distance), abs=1e-4)


def test_bf16_ranks_almost_alike(random_dataset: Callable[..., PreparedDataset]) -> None:
    dataset = random_dataset()
    rows = every_row(dataset)
    full, half = (
        rank_rows(TeacherEngine(untrained(dataset), dtype), dataset, rows, k=5, mask_history=True)
        for dtype in ("fp32", "bf16")
    )
    assert np.abs(full.scores - half.scores).max() < 0.5
    assert len(np.unique(half.scores)) > 0.9 * half.scores.size  # scores of bf16 vectors would tie


@pytest.mark.parametrize("kind", ["hllm", "e4srec"])
def test_a_bf16_engine_keeps_one_table_and_computes_as_with_two(
    random_dataset: Callable[..., PreparedDataset], kind: str
) -> None:
    dataset = random_dataset()
    model: LayeredTeacher = untrained(dataset)
    if kind == "e4srec":
        model = E4SRec.build(E4SRecConfig(kind="e4srec", width=16, layers=1, heads=2), torch.randn(61, 8)).eval()
        model.ids[5, 0] = 1.001  # no bf16 number: what is read is rounded, the table is not
    table = model.item_vectors().detach().clone()
    engine = TeacherEngine(model, "bf16")
    assert torch.equal(engine.vectors, table)
    items = torch.randint(1, 61, (3, 8))
    with torch.inference_mode():
        expected = model.hidden(Histories.of(items), engine.vectors.bfloat16()).float()
    assert torch.equal(engine.hidden(Histories.of(items)), expected)
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}
    if kind == "e4srec":
        assert engine.vectors.data_ptr() == model.ids.data_ptr()


def test_a_poisoned_catalogue_is_refused(random_dataset: Callable[..., PreparedDataset]) -> None:
    model = untrained(random_dataset())
    with torch.no_grad():
        model.project.bias.fill_(torch.nan)
    with pytest.raises(UserError, match="item vectors are not all finite"):
        TeacherEngine(model, "fp32")


def test_a_poisoned_row_is_set_aside(random_dataset: Callable[..., PreparedDataset]) -> None:
    dataset = random_dataset()
    rows = every_row(dataset)
    model = untrained(dataset)
    whole = rank_rows(TeacherEngine(model, "fp32"), dataset, rows, k=5, mask_history=True)
    hidden = model.hidden

    def poisoned(shown: Histories, vectors: torch.Tensor | None = None) -> torch.Tensor:
        result = hidden(shown, vectors).clone()
        result[shown.items == 7] = torch.nan  # what is expected after item 7
        return result

    model.hidden = poisoned  # type: ignore[method-assign]
    rest = rank_rows(TeacherEngine(model, "fp32"), dataset, rows, k=5, mask_history=True)
    good = dataset.items[rows - 1] != 7
    assert 0 < (~good).sum() < len(rows)
    assert rest.rows.tolist() == rows[good].tolist()
    assert np.array_equal(rest.items, whole.items[good])

    parts = [rank_rows(TeacherEngine(model, "fp32"), dataset, row, k=5, mask_history=True) for row in rows[:, None]]
    assert {len(part.rows) for part in parts} == {0, 1}, "a row alone may be the poisoned one"
    assert np.array_equal(join_rankings(parts).rows, rest.rows)
    assert np.array_equal(join_rankings(parts).items, rest.items)


def test_k_must_leave_candidates(random_dataset: Callable[..., PreparedDataset]) -> None:
    dataset = random_dataset(items=60, longest=40)
    rows = every_row(dataset)
    check_k(dataset, rows, 21, True)
    check_k(dataset, rows, 60, False)
    with pytest.raises(UserError, match=r"signals\.k is 22, but there are 60 items minus the longest past of 39"):
        check_k(dataset, rows, 22, True)
    with pytest.raises(UserError, match=r"signals\.k is 61, but there are 60 items to rank"):
        check_k(dataset, rows, 61, False)


def test_types() -> None:
    cpu = torch.device("cpu")
    assert resolve_dtype("auto", cpu) in (torch.bfloat16, torch.float32)
    assert resolve_dtype("fp32", cpu) == torch.float32
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        resolve_dtype("fp16", cpu)


@pytest.mark.parametrize("chunk", [3, 7, 100])
def test_the_best_of_chunks_are_the_best_of_all_and_the_rest_is_the_mass_outside(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, vectors = torch.randn(5, 4, generator=generator), torch.randn(31, 4, generator=generator)
    excluded = torch.tensor([0, 0, 3]), torch.tensor([2, 30, 7])
    items, scores, outside = top_items(hidden, vectors, 6, excluded=excluded, log_mass=True, chunk=chunk)
    for row in range(5):
        possible = {
            item: float(hidden[row] @ vectors[item])
            for item in range(1, 31)
            if (row, item) not in {(0, 2), (0, 30), (3, 7)}
        }
        best = sorted(possible, key=lambda item: -possible[item])
        assert items[row].tolist() == best[:6]
        np.testing.assert_allclose(scores[row], [possible[item] for item in best[:6]], atol=1e-5)
        mass = {item: np.exp(score) for item, score in possible.items()}
        assert float(outside[row]) == pytest.approx(
            np.log(sum(mass[item] for item in best[6:]) / sum(mass.values())), abs=1e-5
        )


def test_large_tables_of_a_checkpoint_stay_in_its_file(
    random_dataset: Callable[..., PreparedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = random_dataset()
    model = untrained(dataset)
    save_checkpoint(str(tmp_path / "t"), model, dataset)
    monkeypatch.setattr(checkpoint, "LARGE", 0)
    loaded = checkpoint.load_checkpoint(tmp_path / "t").model
    assert isinstance(loaded, HLLM)
    assert torch.equal(loaded.item_vectors(), model.item_vectors())
    before = (tmp_path / "t" / "model.safetensors").read_bytes()
    loaded.text.zero_()
    assert (tmp_path / "t" / "model.safetensors").read_bytes() == before


def test_a_table_in_a_file_is_ranked_like_one_in_memory(tmp_path: Path) -> None:
    vectors = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    vectors.numpy().tofile(tmp_path / "vectors")
    mapped = torch.from_file(str(tmp_path / "vectors"), size=vectors.numel()).view_as(vectors)
    hidden = vectors[:3] * 2
    for one, other in zip(top_items(hidden, vectors, 5), top_items(hidden, mapped, 5, chunk=16), strict=True):
        torch.testing.assert_close(one, other)
