"""What a student takes from known signals, against plain loops over rows and candidates."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.config import from_dict
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.losses.config import DistillationConfig, RankingDistillationConfig, RecommendationLossConfig
from recsys.losses.recommendation import bce_loss, dros_term, propensities, softmax_loss
from recsys.losses.scores import CatalogueScores
from recsys.signals.signals import SignalsMeta, TeacherSignals
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.students.items import DistilledItemTable
from recsys.training.config import TrainingConfig
from recsys.training.loop import train_local
from recsys.training.objective import NextItemObjective, RankingTeacher

K = 4


def made_up(
    dataset: PreparedDataset, rows: np.ndarray, items: np.ndarray | None = None, **facts: Any
) -> TeacherSignals:
    """Rankings and distances that differ from row to row; those of test rows are far larger than all others."""
    generator = np.random.default_rng(3)
    n = dataset.num_items
    rows = np.sort(rows)
    if items is None:
        items = np.stack([generator.permutation(n)[:K] + 1 for _ in rows])
    distance = generator.uniform(0.5, 6.0, len(rows)).astype(np.float32)
    distance[np.isin(rows, dataset.rows("test"))] *= 1000
    distance[1::5] = np.nan
    values: dict[str, Any] = {
        "rows": rows,
        "items": items.astype(np.int32),
        "scores": -np.sort(-generator.normal(size=items.shape).astype(np.float32)),
        "target_distance": distance,
        "item_embeddings": torch.randn(n + 1, 6, generator=torch.Generator().manual_seed(1)),
        "text_embeddings": torch.randn(n + 1, 5, generator=torch.Generator().manual_seed(2)),
        "log_mass_outside": None,
        "content_hash": "h",
    }
    meta = SignalsMeta(teacher="t", checkpoint_hash="c", fingerprint=dataset.fingerprint, k=items.shape[1])
    return TeacherSignals(meta=meta, **(values | facts))


def all_rows(dataset: PreparedDataset) -> np.ndarray:
    return np.concatenate([dataset.rows("train"), dataset.rows("valid"), dataset.rows("test")])


def built(
    dataset: PreparedDataset, signals: TeacherSignals, loss: str = "softmax", **ranking: Any
) -> NextItemObjective:
    objective = build_student(
        SASRecConfig(kind="sasrec", width=16, blocks=1, dropout=0),
        dataset,
        loss=RecommendationLossConfig(kind=loss),
        distillation=from_dict(DistillationConfig, {"ranking": {"k": K, **ranking}, "embedding": None}),
        signals=signals,
        seed=0,
    )
    assert isinstance(objective, NextItemObjective)
    return objective.eval()


def softmax(values: list[float]) -> list[float]:
    return [math.exp(v) / sum(math.exp(w) for w in values) for v in values]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def naive(
    dataset: PreparedDataset,
    signals: TeacherSignals,
    config: RankingDistillationConfig,
    logits: list[list[float]],
    rows: list[int],
    negatives: list[int],
    alpha: float,
) -> float:
    """L_d, summed over the rows and divided by the share of the training rows that have signals."""
    train = set(dataset.rows("train").tolist())
    of_row = {int(row): i for i, row in enumerate(signals.rows)}
    known = [float(signals.target_distance[i]) for row, i in of_row.items() if row in train]
    known = [d for d in known if not math.isnan(d)]
    scale = (config.temperature or 1.0) * float(np.median(known))
    mean = sum(math.exp(-d / scale) for d in known) / len(known)
    gammas = (config.position, config.confidence, config.consistency)
    total, k, propensity = 0.0, config.k, propensities(torch.from_numpy(dataset.catalogue.train_counts)).tolist()
    taught: list[tuple[list[float], list[float]]] = []  # weights and robust terms of each row
    for row, y, negative in zip(rows, logits, negatives, strict=True):
        if row not in of_row:
            continue
        i = of_row[row]
        candidates = signals.items[i, :k].tolist()
        own = sorted(range(1, len(y) + 1), key=lambda item: -y[item - 1])[:k]
        hits = [float(item in own) for item in candidates]
        if config.form == "code":
            by_rank = softmax([-float(r) for r in range(1, k + 1)])
            best = max(signals.scores[i, :k].tolist())
            trust = softmax([-(best - s) / (config.temperature or 1.0) for s in signals.scores[i, :k].tolist()])
            summed = [
                gammas[0] * p + gammas[1] * c + gammas[2] * o for p, c, o in zip(by_rank, trust, hits, strict=True)
            ]
            weights = [w / sum(summed) for w in summed]
            squares = [p * v * v for p, v in zip(propensity, y, strict=True)]
            robust = [
                math.log(
                    sum(math.exp(s) for s in squares)
                    - math.exp(squares[item - 1])
                    + math.exp(propensity[item - 1] * (y[item - 1] - 1) ** 2)
                )
                for item in candidates
            ]
            taught.append((weights, robust))
            for w, item in zip(weights, candidates, strict=True):
                total -= w * (math.log(sigmoid(y[item - 1])) + math.log(sigmoid(1 - y[negative - 1])))
            continue
        if config.form == "soft":
            shares = softmax([s / (config.temperature or 1.0) for s in signals.scores[i, :k].tolist()])
            total -= sum(w * math.log(softmax(y)[item - 1]) for w, item in zip(shares, candidates, strict=True))
            continue
        by_rank = softmax([-r / config.beta for r in range(1, k + 1)])
        d = float(signals.target_distance[i])
        trust_of_row = 0.0 if math.isnan(d) else math.exp(-d / scale) / mean
        for p, hit, item in zip(by_rank, hits, candidates, strict=True):
            w = (gammas[0] * p + gammas[1] * trust_of_row / k + gammas[2] * hit / k) / sum(gammas)
            said = sigmoid(y[item - 1]) if config.form == "paper" else softmax(y)[item - 1]
            total -= w * math.log(said)
    for place in range(k if alpha else 0):  # the code weighs robust terms by the mean weight of the rows at hand
        mean_weight = sum(weights[place] for weights, _ in taught) / len(taught)
        total += alpha * mean_weight * sum(robust[place] for _, robust in taught)
    return total / (sum(row in train for row in of_row) / len(train))


@pytest.mark.parametrize("coverage", [1.0, 0.4])
@pytest.mark.parametrize(
    ("form", "loss", "temperature"),
    [
        ("paper", "softmax", 0.4),
        ("softmax", "softmax", 0.4),
        ("softmax without consistency", "softmax", 0.4),
        ("soft", "softmax", 0.3),
        ("soft", "bce", None),
        ("code", "softmax", None),
        ("code", "bce", 1.7),
        ("code", "dros", None),
    ],
)
def test_the_objective_equals_a_loop_over_rows_and_candidates(
    random_dataset: Callable[..., PreparedDataset], form: str, loss: str, temperature: float | None, coverage: float
) -> None:
    dataset = random_dataset(items=20)
    rows = all_rows(dataset)
    if coverage < 1:
        rows = rows[np.random.default_rng(0).random(len(rows)) < coverage]
    signals = made_up(dataset, rows)
    form, _, without = form.partition(" ")
    options = {"consistency": 0.0} if without else {}
    objective = built(dataset, signals, loss, form=form, weight=0.7, temperature=temperature, **options)
    batch, _ = next(objective.batches(dataset, TrainingConfig(batch_size=6), rank=0, world=1).epoch(0))
    chosen = batch["targets"] > 0
    targets, of_batch = batch["targets"][chosen], batch["rows"][chosen]
    torch.manual_seed(5)
    value, parts = objective(batch)
    torch.manual_seed(5)
    drawn = objective.loss.negatives(targets, dataset.num_items)

    vectors = objective.model.item_vectors()
    hidden = objective.model.hidden(Histories.of(batch["items"]), vectors)[chosen]
    logits = (hidden @ vectors[1:].T).detach()
    scores, propensity = CatalogueScores(logits), propensities(torch.from_numpy(dataset.catalogue.train_counts))
    main = softmax_loss(scores, targets)
    if loss != "softmax":
        main = bce_loss(logits.gather(1, targets[:, None] - 1)[:, 0], logits.gather(1, drawn - 1))
    alpha = objective.loss.config.alpha if loss == "dros" else 0.0
    if alpha:
        main = main + alpha * dros_term(scores, targets, propensity, 1.0)
    config = objective.teacher.config
    expected = naive(dataset, signals, config, logits.double().tolist(), of_batch.tolist(), drawn[:, 0].tolist(), alpha)
    assert parts["ranking_distillation_loss"].item() == pytest.approx(expected, rel=2e-4)
    assert parts["recommendation_loss"].item() == pytest.approx(float(main), rel=1e-4)
    assert value.item() == pytest.approx(float(main) + 0.7 * expected, rel=2e-4)


def test_the_two_losses_in_one_are_those_from_the_scores(random_dataset: Callable[..., PreparedDataset]) -> None:
    dataset = random_dataset(items=20)
    signals = made_up(dataset, dataset.rows("train")[::2])
    objective = built(dataset, signals, form="soft", weight=0.7)
    objective.loss.config = RecommendationLossConfig(label_smoothing=0.2)
    rows = torch.from_numpy(dataset.rows("train"))
    targets = torch.from_numpy(dataset.items[dataset.rows("train")]).long()
    hidden, vectors = torch.randn(len(rows), 16, requires_grad=True), torch.randn(21, 16, requires_grad=True)
    found = []
    for scores in (None, CatalogueScores.of(hidden, vectors)):
        loss, parts = objective.next_item(hidden, vectors, targets, rows, scores)
        found.append([loss, *parts.values(), *torch.autograd.grad(loss, (hidden, vectors))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_a_row_weighs_the_same_for_every_k(random_dataset: Callable[..., PreparedDataset], form: str) -> None:
    """A student that ranks nothing apart agrees with every candidate, and log σ(0) = log ½ whatever the item."""
    dataset = random_dataset(items=50)
    generator = np.random.default_rng(0)
    items = np.stack([generator.permutation(50)[:40] + 1 for _ in dataset.rows("train")])
    signals = made_up(dataset, dataset.rows("train"), items, target_distance=np.full(len(items), 3.0, np.float32))
    rows = torch.from_numpy(dataset.rows("train"))
    scores = CatalogueScores(torch.zeros(len(rows), 50))
    for k in (1, 10, 40):
        for position, confidence in [(0.3, 0.5), (0.0, 9.0), (2.0, 0.0)]:
            config = RankingDistillationConfig(k=k, position=position, confidence=confidence, form=form)
            loss = RankingTeacher(signals, dataset, config)(scores, rows, negatives=torch.ones_like(rows))
            each = math.log(2) if form == "paper" else math.log(2) - math.log(sigmoid(1.0))
            assert loss.item() / len(rows) == pytest.approx(each, rel=1e-4)


def test_the_temperature_is_chosen_on_validation_rows(random_dataset: Callable[..., PreparedDataset]) -> None:
    dataset = random_dataset(users=300, items=40, longest=12)
    rows = np.sort(all_rows(dataset))
    generator = np.random.default_rng(0)
    # The list holds the true item with probability exp(−d / 1.2) in validation rows, and always in all others.
    distance = generator.uniform(0.2, 6, len(rows)).astype(np.float32)
    valid = np.isin(rows, dataset.rows("valid"))
    held = np.where(valid, generator.random(len(rows)) < np.exp(-distance / 1.2), True)
    others = dataset.targets(rows)[:, None] % 40 + 1 + np.zeros((1, K), dtype=int)
    items = np.where((np.arange(K) == 2) & held[:, None], dataset.targets(rows)[:, None], others)
    signals = made_up(dataset, rows, items, target_distance=distance)
    teacher = RankingTeacher(signals, dataset, RankingDistillationConfig(k=K))

    def likelihood(temperature: float) -> float:
        said = [math.exp(-float(d) / temperature) for d in distance[valid]]
        return sum(math.log(p if hit else 1 - p) for p, hit in zip(said, held[valid], strict=True))

    tried = [1.2 * 1.02**step for step in range(-40, 40)]
    assert teacher.temperature == pytest.approx(max(tried, key=likelihood), rel=0.02)
    train = np.isin(rows, dataset.rows("train"))
    assert teacher.median == pytest.approx(float(np.median(distance[train])))
    assert teacher.temperature < 0.7 * teacher.median, "chosen, not the fallback"
    assert teacher.describe() == {"coverage": 1.0, "temperature": teacher.temperature / teacher.median}
    fixed = RankingTeacher(signals, dataset, RankingDistillationConfig(k=K, temperature=0.5))
    assert fixed.temperature == pytest.approx(0.5 * teacher.median)
    alone = made_up(dataset, dataset.rows("train"), items[train], target_distance=distance[train])
    untold = RankingTeacher(alone, dataset, RankingDistillationConfig(k=K))
    assert untold.temperature == untold.median, "no validation rows to choose it by"


def test_what_signals_cannot_teach_is_refused(random_dataset: Callable[..., PreparedDataset]) -> None:
    dataset = random_dataset()
    with pytest.raises(UserError, match="hold no training row of this dataset; run infer_teacher with train among"):
        RankingTeacher(made_up(dataset, dataset.rows("test")), dataset, RankingDistillationConfig(k=K))
    rows = dataset.rows("train")
    unknown = made_up(dataset, rows, target_distance=np.full(len(rows), np.nan, np.float32))
    with pytest.raises(UserError, match=r"no target distances .*; set distillation\.ranking\.confidence=0"):
        RankingTeacher(unknown, dataset, RankingDistillationConfig(k=K))
    RankingTeacher(unknown, dataset, RankingDistillationConfig(k=K, confidence=0))
    RankingTeacher(unknown, dataset, RankingDistillationConfig(k=K, form="code"))
    exact = made_up(dataset, rows, target_distance=np.zeros(len(rows), np.float32))  # texts that name the true item
    assert RankingTeacher(exact, dataset, RankingDistillationConfig(k=K)).temperature > 0


def test_what_the_forms_take_is_checked() -> None:
    assert from_dict(RankingDistillationConfig, {"form": "sigmoid"}).form == "paper", "as it was called"
    with pytest.raises(UserError, match="form=code has it fixed at 1"):
        from_dict(RankingDistillationConfig, {"form": "code", "beta": 2})
    with pytest.raises(UserError, match="are all 0; set one of them, or leave ranking out"):
        from_dict(RankingDistillationConfig, {"position": 0, "confidence": 0, "consistency": 0})


def test_a_student_follows_the_teacher(walks: PreparedDataset, tmp_path: Path) -> None:
    """The teacher's first choice is the item half a circle from the latest one, which no data suggests."""
    rows, n = np.sort(all_rows(walks)), walks.num_items
    planted = (walks.items[rows - 1] - 1 + n // 2) % n + 1
    signals = made_up(walks, rows, planted[:, None], target_distance=np.ones(len(rows), np.float32))
    followed = {}
    for weight in (0.0, 20.0):
        objective = built(walks, signals, k=1, form="softmax", weight=weight)
        config = TrainingConfig(epochs=5, batch_size=8, learning_rate=1e-2, patience=0)
        train_local(objective, walks, config, tmp_path / f"{weight}")
        with torch.no_grad():
            scores = objective.eval().model.scores(Histories.of_rows(walks, walks.rows("test")))
        expected = planted[np.isin(rows, walks.rows("test"))]
        followed[weight] = float((scores[:, 1:].argmax(dim=1).numpy() + 1 == expected).mean())
    assert followed[0.0] < 0.2
    assert followed[20.0] > 0.7


@pytest.mark.parametrize("source", ["item_embeddings", "text_embeddings"])
@pytest.mark.parametrize("mix", [0.3, 2.0])
def test_item_vectors_are_offset_and_projection_of_what_is_named(
    random_dataset: Callable[..., PreparedDataset], source: str, mix: float
) -> None:
    dataset = random_dataset()
    signals = made_up(dataset, dataset.rows("train"))
    distillation = {"ranking": None, "embedding": {"source": source, "mix": mix}}
    objective = build_student(
        SASRecConfig(kind="sasrec", width=8),
        dataset,
        loss=RecommendationLossConfig(),
        distillation=from_dict(DistillationConfig, distillation),
        signals=signals,
        seed=0,
    )
    table = objective.model.items
    assert isinstance(table, DistilledItemTable)
    z = getattr(signals, source)[1:]
    z = (z - z.mean(dim=0)) / z.std(dim=0) / z.shape[1] ** 0.5
    with torch.no_grad():
        table.weight.normal_()
        expected = table.weight[1:] + mix * (z @ table.projector.weight.T + table.projector.bias)
        torch.testing.assert_close(objective.model.item_vectors()[1:], expected)


def test_permuted_lists_are_those_of_other_training_rows(random_dataset: Callable[..., PreparedDataset]) -> None:
    dataset = random_dataset(users=30, items=40, longest=12)
    signals, train = made_up(dataset, all_rows(dataset)), dataset.rows("train")
    other = signals.permute(train, seed=0)
    inside = np.isin(signals.rows, train)
    assert np.array_equal(other.items[~inside], signals.items[~inside])
    moved = (other.items[inside] != signals.items[inside]).any(axis=1)
    assert moved.mean() > 0.9
    lists = {(tuple(i), tuple(s)) for i, s in zip(signals.items.tolist(), signals.scores.tolist(), strict=True)}
    assert {(tuple(i), tuple(s)) for i, s in zip(other.items.tolist(), other.scores.tolist(), strict=True)} == lists
    config = RankingDistillationConfig(k=K, permuted=True)
    assert torch.equal(RankingTeacher(signals, dataset, config, seed=0).items, torch.from_numpy(other.items))
    learned = built(dataset, signals, permuted=True).teacher
    assert learned is not None
    places = learned.index[torch.from_numpy(signals.rows)]
    assert torch.equal(learned.items[places], torch.from_numpy(other.items)), "what the option teaches"
