import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.evaluation.metrics import metrics_from_ranks
from recsys.evaluation.ranking import model_scorer, rank_targets
from recsys.losses.config import RecommendationLossConfig
from recsys.model import model_class
from recsys.students.build import build_student
from recsys.students.config import AttentionConfig, CaserConfig, GRU4RecConfig, HSTUConfig, SASRecConfig, TableConfig
from recsys.training import loop
from recsys.training.config import DeepSpeedConfig, TrainingConfig, Windowing
from recsys.training.loop import Epoch, Steps, TrainingResult, learning_rate, train, train_local
from recsys.training.windows import Windows, history_starts

MODEL = SASRecConfig(width=16, blocks=1, heads=1, max_positions=8, dropout=0.1)
MODELS: dict[str, TableConfig] = {
    "sasrec": MODEL,
    "gru4rec": GRU4RecConfig(width=16),
    "caser": CaserConfig(width=16, window=3),
    "hstu": HSTUConfig(width=16, blocks=1, heads=1, max_positions=8, dropout=0.1),
}
LOSSES = {
    "softmax": RecommendationLossConfig(),
    "sampled-softmax": RecommendationLossConfig(kind="sampled-softmax", negatives=20, popularity=0.5),
    "bce": RecommendationLossConfig(kind="bce"),
    "gbce": RecommendationLossConfig(kind="gbce"),
    "dros": RecommendationLossConfig(kind="dros"),
}


class Killed(Exception):
    pass


def fit(dataset: PreparedDataset, config: TrainingConfig, directory: Path, **options: object) -> TrainingResult:
    objective = build_student(MODEL, dataset, loss=RecommendationLossConfig(), seed=config.seed)
    return train_local(objective, dataset, config, directory, **options)


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        *[(kind, loss) for kind in ("sasrec", "gru4rec") for loss in LOSSES],
        ("caser", "softmax"),
        ("caser", "gbce"),
        ("hstu", "softmax"),
        ("hstu", "sampled-softmax"),
    ],
)
def test_learns_and_selects_on_validation(walks: PreparedDataset, kind: str, loss: str, tmp_path: Path) -> None:
    model = MODELS[kind]
    config = TrainingConfig(epochs=10, batch_size=8, learning_rate=0.01, patience=0)
    objective = build_student(model, walks, loss=LOSSES[loss], seed=0)
    result = train_local(objective, walks, config, tmp_path)
    curve = [record["valid_ndcg@10"] for record in result.progress.curve]
    assert result.progress.best["ndcg@10"] == max(curve) > 0.35  # a random ranking has 0.13
    assert result.progress.best_epoch == curve.index(max(curve)) + 1
    served = model_class(model.kind)(model, num_items=walks.num_items)
    served.load_state_dict(result.state)
    ranks = rank_targets(model_scorer(served.eval()), walks, walks.rows("valid"), mask_seen=True)
    assert metrics_from_ranks(ranks)["ndcg@10"] == pytest.approx(max(curve), abs=1e-6)


@pytest.mark.parametrize("deepspeed", [None, DeepSpeedConfig(zero_stage=1)], ids=["torch", "deepspeed"])
def test_resume_equals_uninterrupted(walks: PreparedDataset, tmp_path: Path, deepspeed: DeepSpeedConfig | None) -> None:
    config = TrainingConfig(
        epochs=5, batch_size=16, learning_rate=0.01, patience=0, warmup_steps=5, schedule="cosine", deepspeed=deepspeed
    )
    whole = fit(walks, config, tmp_path / "whole")

    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(walks, config, tmp_path / "parts", report=stop)
    seen: list[int] = []
    resumed = fit(walks, config, tmp_path / "parts", report=lambda epoch: seen.append(epoch.number))
    assert seen == [3, 4, 5]
    for name, tensor in whole.state.items():
        assert torch.equal(tensor, resumed.state[name]), name
    timings = ("train_seconds", "valid_seconds", "targets_per_second", "rows_per_second", "tokens_per_second")
    for left, right in zip(whole.progress.curve, resumed.progress.curve, strict=True):
        assert {k: v for k, v in left.items() if k not in timings} == {
            k: v for k, v in right.items() if k not in timings
        }


@pytest.mark.parametrize("deepspeed", [None, DeepSpeedConfig(zero_stage=1)], ids=["torch", "deepspeed"])
def test_what_goes_on_from_another_s_state_keeps_its_own_weight_decay(
    walks: PreparedDataset, tmp_path: Path, deepspeed: DeepSpeedConfig | None
) -> None:
    """As a member of a population does."""
    norms = []
    for decay in (0.0, 10.0):
        config = TrainingConfig(epochs=2, batch_size=16, learning_rate=0.01, patience=0, deepspeed=deepspeed)

        def keep(epoch: Epoch) -> None:
            if epoch.number == 1:
                epoch.save(tmp_path / "state")

        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        (tmp_path / "state").mkdir()
        fit(walks, config, tmp_path / f"first-{decay}", report=keep)
        objective = build_student(MODEL, walks, loss=RecommendationLossConfig())
        own = dataclasses.replace(config, weight_decay=decay)
        train(objective, walks, own, report=lambda epoch: None, resume=tmp_path / "state")
        norms.append(sum(float(p.detach().norm()) for p in objective.parameters()))
    assert norms[1] < 0.95 * norms[0]


@pytest.mark.parametrize("deepspeed", [None, DeepSpeedConfig(zero_stage=1)], ids=["torch", "deepspeed"])
def test_a_batch_in_parts_is_the_same_batch(
    walks: PreparedDataset, tmp_path: Path, deepspeed: DeepSpeedConfig | None
) -> None:
    model = SASRecConfig(width=16, blocks=1, heads=1, max_positions=8, dropout=0.0)
    results = []
    for accumulation in (1, 3, 100):
        config = TrainingConfig(
            epochs=2, batch_size=16, learning_rate=0.01, accumulation=accumulation, deepspeed=deepspeed
        )
        objective = build_student(model, walks, loss=RecommendationLossConfig(), seed=0)
        results.append(train_local(objective, walks, config, tmp_path / str(accumulation)))
    for other in results[1:]:
        assert other.progress.curve[0]["loss"] == pytest.approx(results[0].progress.curve[0]["loss"], rel=1e-5)
        for name, tensor in results[0].state.items():
            if not name.endswith("qkv.bias"):  # attention does not depend on the keys' bias
                torch.testing.assert_close(other.state[name], tensor, atol=2e-4, rtol=1e-3)


def test_checkpointing_needs_a_language_model(walks: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.checkpointing is for language models"):
        fit(walks, TrainingConfig(epochs=1, checkpointing=True), tmp_path)


def test_a_finished_run_is_not_trained_again(walks: PreparedDataset, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, batch_size=16)
    first = fit(walks, config, tmp_path)
    seen: list[int] = []
    second = fit(walks, config, tmp_path, report=lambda epoch: seen.append(epoch.number))
    assert seen == []
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)


def test_same_seed_same_weights_other_seed_other_weights(walks: PreparedDataset, tmp_path: Path) -> None:
    states = [
        fit(walks, TrainingConfig(epochs=2, batch_size=16, seed=seed), tmp_path / str(n)).state["items.weight"]
        for n, seed in enumerate((0, 0, 1))
    ]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_seed_decides_the_initial_weights(walks: PreparedDataset, model: TableConfig) -> None:
    first, again, other = (
        build_student(model, walks, loss=RecommendationLossConfig(), seed=seed).model.items.weight for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_seed_decides_the_batches(walks: PreparedDataset) -> None:
    objective = build_student(MODEL, walks, loss=RecommendationLossConfig())

    def first_rows(seed: int) -> torch.Tensor:
        config = TrainingConfig(batch_size=1000, seed=seed)
        return next(objective.batches(walks, config, rank=0, world=1).epoch(0))[0]["rows"]

    assert torch.equal(first_rows(1), first_rows(1))
    assert not torch.equal(first_rows(0), first_rows(1))


@pytest.mark.parametrize("histories", ["overlapping", "exact", "prefixes"])
def test_batches_show_the_histories_that_are_asked_for(walks: PreparedDataset, histories: Windowing) -> None:
    config = TrainingConfig(batch_size=7, histories=histories)
    objective = build_student(MODEL, walks, loss=RecommendationLossConfig())
    starts, joined = history_starts(walks, histories), histories != "prefixes"
    expected = Windows(walks, max_history=8, batch_size=7, seed=0, starts=starts, joined=joined).epoch(0)
    for (ours, total), (theirs, wanted) in zip(
        objective.batches(walks, config, rank=0, world=1).epoch(0), expected, strict=True
    ):
        assert total == wanted and torch.equal(ours["items"], theirs["items"])
        assert torch.equal(ours["rows"], theirs["rows"])


def test_chance_is_another_in_every_epoch(walks: PreparedDataset, tmp_path: Path) -> None:
    drawn: list[float] = []
    objective = build_student(MODEL, walks, loss=RecommendationLossConfig())
    objective.register_forward_pre_hook(lambda *_: drawn.append(float(torch.rand(1))))
    train_local(objective, walks, TrainingConfig(epochs=3, batch_size=16), tmp_path)
    assert len(set(drawn)) == len(drawn) >= 6


def test_the_recorded_loss_is_the_mean_over_batches(walks: PreparedDataset, tmp_path: Path) -> None:
    model = SASRecConfig(width=16, blocks=1, heads=1, max_positions=8, dropout=0.0)
    objective = build_student(model, walks, loss=RecommendationLossConfig())
    config = TrainingConfig(epochs=1, batch_size=16, learning_rate=1e-12)
    record = train_local(objective, walks, config, tmp_path).progress.curve[0]
    batches = list(objective.batches(walks, config, rank=0, world=1).epoch(0))
    with torch.no_grad():
        means = [objective(batch)[0].item() / total for batch, total in batches]
    assert len(means) > 3 and record["loss"] == pytest.approx(sum(means) / len(means), rel=1e-5)


SMOOTHED = RecommendationLossConfig(label_smoothing=0.1)


@pytest.mark.parametrize(
    ("kind", "histories", "loss"),
    [
        *[(kind, way, SMOOTHED) for kind in ("sasrec", "gru4rec") for way in ("overlapping", "exact", "prefixes")],
        ("caser", "exact", SMOOTHED),
        ("hstu", "windows", SMOOTHED),
        ("sasrec", "windows", LOSSES["gbce"]),
        ("sasrec", "windows", LOSSES["sampled-softmax"]),
    ],
)
def test_recipes_are_repeatable_and_resumable(
    walks: PreparedDataset, tmp_path: Path, kind: str, histories: Windowing, loss: RecommendationLossConfig
) -> None:
    """Cosine scores with a temperature, with each choice of histories and of what is drawn by chance: bit for bit the
    same again, and when resumed."""
    model = dataclasses.replace(MODELS[kind], dropout=0.5, similarity="cosine")
    config = TrainingConfig(epochs=3, batch_size=32, learning_rate=0.01, patience=2, histories=histories)

    def fitted(directory: str, **options: object) -> TrainingResult:
        objective = build_student(model, walks, loss=loss, seed=config.seed)
        return train_local(objective, walks, config, tmp_path / directory, **options)

    def stop(epoch: Epoch) -> None:
        raise Killed

    whole, again = fitted("whole"), fitted("again")
    with pytest.raises(Killed):
        fitted("parts", report=stop)
    resumed = fitted("parts")
    for other in (again, resumed):
        assert [one["loss"] for one in other.progress.curve] == [one["loss"] for one in whole.progress.curve]
        for name, tensor in whole.state.items():
            assert torch.equal(tensor, other.state[name]), name
    assert whole.progress.curve[-1]["loss"] < whole.progress.curve[0]["loss"]


def test_patience_stops_early(walks: PreparedDataset, tmp_path: Path) -> None:
    # A vanishing learning rate cannot improve on the first epoch for long.
    config = TrainingConfig(epochs=30, batch_size=64, learning_rate=1e-12, patience=3)
    progress = fit(walks, config, tmp_path).progress
    assert progress.epoch == progress.best_epoch + 3 < 30


@pytest.mark.parametrize(("metric", "best"), [("ndcg@10", 3), ("mrr", 2)])
def test_the_first_epoch_with_the_best_of_the_named_metric_is_kept(
    walks: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, best: int
) -> None:
    said = iter([{"ndcg@10": a, "mrr": b} for a, b in ((0.1, 0.1), (0.2, 0.4), (0.3, 0.4), (0.3, 0.2))])
    monkeypatch.setattr(loop, "validate", lambda *_, **__: next(said))
    states = []
    config = TrainingConfig(epochs=4, batch_size=16, patience=0, metric=metric)
    result = fit(walks, config, tmp_path, report=lambda epoch: states.append(epoch.export()))
    assert result.progress.best_epoch == best
    assert torch.equal(result.state["items.weight"], states[best - 1]["items.weight"])


@pytest.mark.parametrize("mask_seen", [True, False])
def test_validation_masks_the_past_where_asked(walks: PreparedDataset, mask_seen: bool) -> None:
    objective = build_student(MODEL, walks, loss=RecommendationLossConfig(), seed=0)
    found = loop.validate(objective, walks, TrainingConfig(mask_seen=mask_seen))
    scorer = model_scorer(objective.eval().model)
    both = [metrics_from_ranks(rank_targets(scorer, walks, walks.rows("valid"), mask_seen=m)) for m in (True, False)]
    assert both[0] != both[1]
    assert found == both[0 if mask_seen else 1]


def test_a_run_killed_between_two_renames_goes_on(walks: PreparedDataset, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=3, batch_size=16, patience=0)

    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(walks, config, tmp_path, report=stop)
    (tmp_path / "last").rename(tmp_path / "old")
    seen: list[int] = []
    fit(walks, config, tmp_path, report=lambda epoch: seen.append(epoch.number))
    assert seen == [3]


def test_divergence_is_one_clear_line(walks: PreparedDataset) -> None:
    objective = build_student(MODEL, walks, loss=RecommendationLossConfig(), seed=0)
    with torch.no_grad():
        objective.model.items.weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"training diverged.*learning_rate"):
        train(objective, walks, TrainingConfig(epochs=1), report=lambda epoch: None)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = TrainingConfig(epochs=4, learning_rate=1.0, warmup_steps=10, schedule="cosine")
    rates = [learning_rate(config, epoch, step, 25) for epoch in range(4) for step in range(25)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[9], abs=0.03)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 0.001


@pytest.mark.parametrize("config", [SASRecConfig, HSTUConfig])
def test_positions_shorter_than_histories_are_refused(walks: PreparedDataset, config: type[AttentionConfig]) -> None:
    with pytest.raises(UserError, match=r"max_positions is 4.*set it to 8"):
        build_student(config(width=8, heads=1, max_positions=4), walks, loss=RecommendationLossConfig())


def test_long_epochs_tell_how_far_they_are(
    walks: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 2.0  # read once as the epoch's training begins, once a step, and once more where one tells
        return now[0]

    monkeypatch.setattr(loop.time, "perf_counter", clock)
    monkeypatch.setattr(loop, "_TELL_SECONDS", 5.0)
    config = TrainingConfig(epochs=1, batch_size=8)
    told: list[Steps] = []
    fit(walks, config, tmp_path, tell=told.append)
    windows = Windows(walks, max_history=walks.max_history, batch_size=8, seed=0)
    batches = [batch for batch, _ in windows.epoch(0)]
    assert len(batches) > 5
    assert {steps.total for steps in told} == {len(batches)}
    assert [steps.done for steps in told] == list(range(2, len(batches) + 1, 3))
    tokens = sum(int((batch["items"] > 0).sum()) for batch in batches[:2])
    assert told[0] == Steps(1, 2, len(batches), pytest.approx(tokens / 6), pytest.approx((len(batches) - 2) * 3))


def test_short_epochs_tell_nothing(walks: PreparedDataset, tmp_path: Path) -> None:
    told: list[Steps] = []
    fit(walks, TrainingConfig(epochs=1, batch_size=8), tmp_path, tell=told.append)
    assert told == []
