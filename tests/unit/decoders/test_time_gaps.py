from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.decoders.time_gaps import TimeGaps, seconds_since_the_one_before
from recsys.errors import UserError
from recsys.evaluation.ranking import model_scorer, rank_targets
from recsys.histories import Histories
from recsys.losses.config import AlignmentConfig, RecommendationLossConfig
from recsys.serving.recommender import Recommender
from recsys.signals.config import SignalsConfig
from recsys.students.config import SLMRecConfig
from recsys.students.slmrec import build_slmrec
from recsys.teachers.config import HLLMConfig
from recsys.teachers.hllm import HLLM
from recsys.teachers.hllm_training import hllm_objective
from recsys.training.batches import histories_of
from recsys.training.config import TrainingConfig
from recsys.training.loop import train_local
from tests.unit.teachers.test_hllm import SMALL, text_of


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    made = random_dataset()
    made.timestamps[:] = np.random.default_rng(1).integers(0, 10**6, len(made.timestamps)).cumsum()
    return made


@pytest.fixture
def model(dataset: PreparedDataset) -> HLLM:
    torch.manual_seed(3)
    made = HLLM.build(HLLMConfig(**SMALL, time_gaps=True), dataset, text_of(dataset)).eval()
    with torch.no_grad():
        made.gaps.vectors.weight[1:].normal_()
    return made


def test_gaps_go_by_their_magnitude() -> None:
    times = torch.tensor([[100, 100, 101, 103, 50, -1, 200, 300]])
    assert seconds_since_the_one_before(times).tolist() == [[-1, 0, 1, 2, 0, -1, -1, 100]]
    gaps = TimeGaps(4).eval()
    found = gaps(torch.tensor([[0, 0, 1, 4, 2**40]]))[0]
    for place, bucket in enumerate([0, 1, 2, 3, 35]):
        assert torch.equal(found[place], gaps.vectors.weight[bucket])
    assert not gaps.vectors.weight[0].any()


def test_some_histories_are_learned_from_without_times() -> None:
    torch.manual_seed(0)
    vectors = TimeGaps(4)(torch.arange(10).repeat(1000, 1))
    unknown = ~vectors[:, 1:].flatten(1).any(dim=1)
    assert 60 < int(unknown.sum()) < 140


def test_times_matter_and_the_future_does_not(model: HLLM) -> None:
    items, times = torch.randint(1, 61, (3, 8)), torch.randint(0, 10**6, (3, 8)).cumsum(dim=1)
    changed = times.clone()
    changed[:, 5:] += 10**7
    before, after = model.hidden(Histories.of(items, times)), model.hidden(Histories.of(items, changed))
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])
    unknown = model.hidden(Histories.of(items, torch.full_like(times, -1)))
    assert torch.equal(unknown, model.hidden(Histories.of(items)))
    assert not torch.allclose(unknown, before)


def test_evaluation_pass_and_serving_see_the_same_times(dataset: PreparedDataset, model: HLLM, tmp_path: Path) -> None:
    rows = dataset.rows("test")
    scorer = model_scorer(model)
    expected = []
    for row in rows:
        history = dataset.seen(row)[-8:].astype(np.int64)
        times = dataset.timestamps[dataset.offsets[dataset.users_of(np.array([row]))[0]] : row][-8:]
        query = model.hidden(Histories.of(torch.from_numpy(history)[None], torch.from_numpy(times)[None]))[0, -1]
        scores = query @ model.item_vectors().T
        scores[0] = -torch.inf
        expected.append(scores)
    ranks = [int((scores >= scores[dataset.items[row]]).sum()) for row, scores in zip(rows, expected, strict=True)]
    assert rank_targets(scorer, dataset, rows, mask_seen=False).tolist() == ranks
    save_checkpoint(str(tmp_path / "t"), model, dataset)
    best = [scores.topk(5).indices.tolist() for scores in expected]
    ranked = model.ready(SignalsConfig(k=5, dtype="fp32", mask_history=False), "cpu").rank(dataset, rows)
    assert ranked.items.tolist() == best
    recommender = Recommender.load(tmp_path / "t")
    named = [[dataset.catalogue.item_ids[item] for item in dataset.seen(row)] for row in rows]
    named[0].insert(-1, "no such item")
    times = [dataset.timestamps[row - len(dataset.seen(row)) : row].tolist() for row in rows]
    times[0].insert(-1, 5)
    answers = recommender.recommend(named, k=5, mask_seen=False, times=times)
    assert answers == [[dataset.catalogue.item_ids[item] for item in row] for row in best]
    without = recommender.recommend(named, k=5, mask_seen=False)
    assert without != answers
    assert recommender.recommend(named, k=5, mask_seen=False, times=[None] * len(named)) == without
    with pytest.raises(UserError, match="a history of 2 items has 1 times; give one for each item"):
        recommender.recommend([["i1", "i2"]], times=[[5]])


@pytest.mark.parametrize("aligned", [False, True])
def test_students_cut_from_it_learn_from_the_times(
    dataset: PreparedDataset, model: HLLM, tmp_path: Path, aligned: bool
) -> None:
    save_checkpoint(str(tmp_path / "t"), model, dataset)
    objective = build_slmrec(
        SLMRecConfig(kind="slmrec", layers=1),
        dataset,
        load_checkpoint(tmp_path / "t"),
        loss=RecommendationLossConfig(),
        alignment=AlignmentConfig(blocks=1, logits=1.0) if aligned else None,
    )
    batch, _ = next(iter(objective.batches(dataset, TrainingConfig(batch_size=4), rank=0, world=1).epoch(0)))
    objective.eval()
    loss, parts = objective(batch)
    without, _ = objective({**batch, "times": torch.full_like(batch["times"], -1)})
    assert not torch.allclose(loss, without)
    loss.backward()
    assert objective.model.gaps.vectors.weight.grad.any()
    assert all(parameter.grad is not None for parameter in objective.parameters()), "data parallelism needs every one"
    if aligned:
        chosen, vectors = batch["targets"] > 0, model.item_vectors()
        found = [cut.hidden(histories_of(batch))[chosen] @ vectors[1:].T for cut in (objective.model, model)]
        expected = functional.kl_div(found[0].log_softmax(1), found[1].softmax(1), reduction="sum")
        torch.testing.assert_close(parts["logit_alignment_loss"], expected, atol=1e-3, rtol=1e-4)


def test_the_pass_stores_states_of_the_times(dataset: PreparedDataset, model: HLLM) -> None:
    rows = dataset.rows("test")
    shown = Histories.of_rows(dataset, rows)
    with torch.no_grad():
        expected = model.states(shown, [1, 2])
        last = {layer: state[torch.arange(len(rows)), shown.lengths - 1] for layer, state in expected.items()}
    found = model.ready(SignalsConfig(k=5, dtype="fp32"), "cpu").states(dataset, rows, [1, 2], torch.float32)
    for place, layer in enumerate((1, 2)):
        torch.testing.assert_close(found[:, place], last[layer], atol=1e-5, rtol=1e-4)


def test_it_learns_what_only_times_tell(random_dataset: Callable[..., PreparedDataset], tmp_path: Path) -> None:
    made = random_dataset(users=60, items=10)
    generator = np.random.default_rng(0)
    # After a short pause the next item follows on the circle, after a long one the one opposite.
    long = generator.random(len(made.items)) < 0.5
    made.items[:] = np.cumsum(np.where(np.roll(long, 1), 5, 1)) % 10 + 1
    made.timestamps[:] = np.cumsum(np.where(long, 10**6, 10))
    losses = {}
    for known in (True, False):
        torch.manual_seed(0)
        model = HLLM.build(HLLMConfig(**SMALL, layers=1, dropout=0.0, time_gaps=known), made, text_of(made))
        config = TrainingConfig(epochs=8, batch_size=8, learning_rate=1e-2, patience=0)
        curve = train_local(hllm_objective(model, made), made, config, tmp_path / str(known)).progress.curve
        losses[known] = curve[-1]["loss"]
    assert losses[True] < losses[False] - 0.2
