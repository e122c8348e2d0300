"""The table of SLMRec: teachers, cut models retrained alone, and students taught block by block: a store of cells.

    python benchmarks/slmrec.py [--minutes N] [--data-dir D] [--only '*/4*'] [--seeds 3] [--table]

MovieLens 100K, leave-one-out. The item ids are those of one SASRec; teachers are E4SRec of 8 and of 32 layers, 64 wide,
from scratch, of one seed; every student starts from random weights or, where its name ends in `-start`, from its
teacher's first layers; the states of a teacher are computed once. A cell (`benchmarks/cells.py`) is one model with one
seed: HR@1, HR@5, NDCG@5 and MRR among 999 sampled negatives (the paper's protocol, negatives fixed) and full ranking,
on test; the epoch is selected on validation. A run fills missing cells, the most telling first; what it began is
finished by the next run. `--table` only draws what is there. Work goes under --storage.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from cells import Column, OutOfTimeError, Row, Store, Table, arguments, fill, show
from harness import FIXTURE, ROOT, Options, main, progress, scratch

from recsys.config import beyond_defaults, digest, from_dict
from recsys.losses.config import AlignmentConfig, RecommendationLossConfig
from recsys.students.config import SASRecConfig, SLMRecConfig
from recsys.teachers.config import E4SRecConfig
from recsys.training.config import TrainingConfig

PLACE = "ml-100k/leave_one_out"
STORE = Store(ROOT / "results" / "slmrec")
SAMPLED = ("hr@1", "hr@5", "ndcg@5", "mrr")
COLUMNS = {
    "valid NDCG@10": Column(lambda value: value["training"]["valid"]["ndcg@10"]),
    "NDCG@10": Column(lambda value: value["metrics"]["ndcg@10"]),
    **{f"{name.upper()} of 1,000": Column(lambda value, name=name: value["sampled"][name]) for name in SAMPLED},
}
IDS_TRAINING = TrainingConfig(
    epochs=25, batch_size=32, learning_rate=2e-3, schedule="cosine", weight_decay=0.01, patience=0
)
TRAINING = TrainingConfig(
    epochs=15, batch_size=32, learning_rate=1e-3, schedule="cosine", warmup_steps=20, weight_decay=0.01,
    gradient_clipping=1.0, patience=0,
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A row of the table; a teacher is made from the model of the ids, a student from its teacher."""

    name: str
    says: str
    config: Any
    training: TrainingConfig
    made_from: "Model | None" = None
    alignment: AlignmentConfig | None = None
    seeds: int | None = None


@dataclass(frozen=True)
class Cell:
    model: Model
    seed: int

    @property
    def id(self) -> str:
        return f"{PLACE}/{self.model.name}.seed{self.seed}"

    @property
    def key(self) -> str:
        """Digest of what the cell depends on, the settings of what it is made from included."""
        model = self.model
        above = [Cell(model.made_from, 0).key] if model.made_from else []
        said = [model.config.kind, beyond_defaults(model.config), beyond_defaults(model.training)]
        return digest([*said, model.alignment and beyond_defaults(model.alignment), self.seed, above])


def list_models(ids_training: TrainingConfig, training: TrainingConfig) -> list[Model]:
    """Every row of the table, the most telling first."""
    ids = Model("sasrec", "SASRec, whose item vectors are the ids", SASRecConfig(dropout=0.3), ids_training, seeds=1)

    def teacher(layers: int) -> Model:
        config = E4SRecConfig(kind="e4srec", layers=layers)
        return Model(f"e4srec-{layers}", f"E4SRec, {layers} layers", config, training, ids, seeds=1)

    def student(name: str, says: str, layers: int, above: Model, start: str = "fresh", **alignment: Any) -> Model:
        config = from_dict(SLMRecConfig, {"kind": "slmrec", "layers": layers, "start": start})
        taught = AlignmentConfig(**alignment) if alignment else None
        if taught is not None and taught.teaches:
            taught = replace(taught, stored=True)
        return Model(name, says, config, training, above, taught)

    eight, deep = teacher(8), teacher(32)
    # Chosen on validation, one seed, among four ways of weighing the losses (docs/experiments).
    tuned: dict[str, Any] = {"blocks": 4, "cosine": 0, "norm": 0, "supervision": 0, "logits": 1}
    return [
        ids,
        eight,
        student("4-alone", "4 layers, retrained alone", 4, eight),
        student("4from8", "SLMRec 4←8", 4, eight, blocks=4),
        student("4-alone-start", "4 of the teacher's layers, retrained alone", 4, eight, "teacher"),
        student("4from8-start", "SLMRec 4←8 from the teacher's layers", 4, eight, "teacher", blocks=4),
        student("4from8-kl", "4←8, teacher's distribution alone (chosen on validation)", 4, eight, **tuned),
        student("4from8-kl-start", "the same from the teacher's layers", 4, eight, "teacher", **tuned),
        student("4-ms", "4 layers, L_ms alone, no teacher", 4, eight, blocks=4, cosine=0, norm=0),
        student("4from8-logits", "4←8, teacher's distribution and weak D_cos, L_ms", 4, eight, blocks=4, cosine=0.1,
                norm=0, supervision=0.1, logits=1),
        student("4from8-cos", "SLMRec 4←8, D_cos", 4, eight, blocks=4, norm=0, supervision=0),
        student("4from8-cos-norm", "SLMRec 4←8, D_cos, D_norm", 4, eight, blocks=4, supervision=0),
        student("4from8-cos-ms", "SLMRec 4←8, D_cos, L_ms", 4, eight, blocks=4, norm=0),
        student("2-alone", "2 layers, retrained alone", 2, eight),
        student("2from8", "SLMRec 2←8, b = 2", 2, eight, blocks=2),
        deep,
        student("8-alone", "8 layers, retrained alone", 8, deep),
        student("4from32", "SLMRec 4←32", 4, deep, blocks=4),
        student("8from32", "SLMRec 8←32", 8, deep, blocks=4),
    ]  # fmt: skip


def body(options: Options) -> dict[str, Any]:
    if options.quick:  # the ids, the teacher and one student, an epoch each
        short = replace(TRAINING, epochs=1)
        rows = [model for model in list_models(short, short) if model.name in ("sasrec", "e4srec-8", "4from8")]
        with scratch() as folder:
            return _run(rows, 1, Store(Path(folder, "store")), Path(folder), options)
    from recsys.settings import Settings

    root = Path(options.args.storage or Settings().layout.storage_root) / "slmrec-ml-100k"
    return _run(list_models(IDS_TRAINING, TRAINING), options.args.seeds, STORE, root, options)


def _run(rows: list[Model], seeds: int, store: Store, root: Path, options: Options) -> dict[str, Any]:
    every = [Cell(model, seed) for seed in range(seeds) for model in rows if seed < (model.seeds or seeds)]
    fill(store, every, partial(prepare_dataset, root=root), partial(compute, root=root), options)
    return show(tables(store, seeds, rows))


def tables(store: Store = STORE, seeds: int = 3, drawn: Sequence[Model] | None = None) -> list[Table]:
    rows = [
        Row(model.name, [Cell(model, seed) for seed in range(min(seeds, model.seeds or seeds))], model.says)
        for model in drawn or list_models(IDS_TRAINING, TRAINING)
    ]
    return [Table(PLACE, "test, full ranking and among 999 sampled negatives", store, COLUMNS, rows)]


def prepare_dataset(_: Cell, options: Options, root: Path) -> Any:
    """The data set, prepared once."""
    from recsys.data.config import DataConfig
    from recsys.data.prepare import prepare
    from recsys.data.prepared import PreparedDataset

    uri = str(root / "dataset")
    if not (root / "dataset").exists():
        data = FIXTURE if options.quick else options.dataset("ml-100k")
        prepare(DataConfig(path=str(data)), "ml-100k", report=progress).write(uri)
    return PreparedDataset.load(uri)


def compute(cell: Cell, dataset: Any, options: Options, root: Path) -> dict[str, Any]:
    """Train unless it is there, and evaluate on test."""
    from recsys.checkpoint import load_checkpoint
    from recsys.evaluation.config import SampledConfig
    from recsys.evaluation.ranking import model_scorer
    from recsys.evaluation.results import evaluate

    checkpoint = load_checkpoint(train(cell, dataset, root, options))
    served = sum(tensor.numel() for tensor in checkpoint.model.state_dict().values())
    facts: dict[str, Any] = {"name": cell.model.name, "role": "student", "kind": checkpoint.model.kind, "key": cell.key}
    facts |= {"seed": cell.seed, "checkpoint_hash": checkpoint.hash, "training": {}, "parameters": {"served": served}}
    scorer = model_scorer(checkpoint.model)
    result, _ = evaluate(scorer, dataset, "test", batch_size=256, sampled=SampledConfig(), **facts)
    masked, sampled = result.metrics["masked"], result.sampled or {}
    progress(f"  NDCG@10 {masked['ndcg@10']:.4f}, HR@1 of 1,000 {sampled['hr@1']:.4f}")
    return {
        "model": cell.model.name,
        "seed": cell.seed,
        "sampled": sampled,
        "metrics": masked,
        "unmasked": result.metrics["unmasked"],
        "rows": result.rows,
        "fingerprint": dataset.fingerprint,
        "parameters": served,
        "training": checkpoint.info["training"],
    }


def train(cell: Cell, dataset: Any, root: Path, options: Options) -> str:
    """Checkpoint of a model, what it is made from trained first.

    Raises:
        OutOfTimeError: the time is up before.
    """
    from recsys import storage
    from recsys.checkpoint import load_checkpoint, save_checkpoint
    from recsys.students.build import build_student
    from recsys.students.slmrec import build_slmrec
    from recsys.teachers.e4srec import E4SRec
    from recsys.training.loop import train_local

    model, seed, work, loss = cell.model, cell.seed, cell.key, RecommendationLossConfig()
    uri = str(root / f"{model.name}.seed{seed}")
    if storage.is_current(uri, work):
        return uri
    needed = train(Cell(model.made_from, 0), dataset, root, options) if model.made_from else ""
    training = replace(model.training, seed=seed)
    objective: Any
    if model.config.kind == "sasrec":
        objective = build_student(model.config, dataset, loss=loss, seed=seed)
    elif model.config.kind == "e4srec":
        objective = E4SRec.objective(model.config, dataset, {"ids": needed}, seed=seed)
    else:
        objective = build_slmrec(
            model.config,
            dataset,
            load_checkpoint(needed),
            loss=loss,
            alignment=model.alignment,
            stored=compute_states(needed, root / "dataset") if model.alignment and model.alignment.stored else None,
            seed=seed,
        )
        # Every row of the table learns in windows that are cut anew in each epoch, those taught from stored states too:
        # the pass's windows would double the work on histories this long. Its states have seen half a window at least.
        objective.window_starts = lambda _: None

    def report(epoch: Any) -> None:
        valid = epoch.metrics[f"valid_{training.metric}"]
        progress(f"  {model.name}: epoch {epoch.number}/{training.epochs}, {training.metric} on validation {valid:.4f}")
        if options.seconds_left <= 0 and not epoch.finished:
            raise OutOfTimeError

    result = train_local(objective, dataset, training, root / "unfinished" / work[:16], report=report)
    done = result.progress
    seconds = round(sum(record["train_seconds"] for record in done.curve), 1)
    info = {"best_epoch": done.best_epoch, "epochs": done.epoch, "valid": done.best, "train_seconds": seconds}
    save_checkpoint(uri, objective.model, dataset, state=result.state, key=work, info={"training": info})
    return uri


@cache
def compute_states(teacher: str, folder: Path) -> Any:
    """A teacher's states after every quarter of its layers, for all training rows; computed once per run."""
    import torch

    from recsys.checkpoint import load_checkpoint
    from recsys.data.prepared import PreparedDataset
    from recsys.inference.ranking import WindowPass
    from recsys.losses.alignment import block_ends
    from recsys.signals.config import SignalsConfig
    from recsys.signals.states import StatesMeta, StoredStates

    checkpoint, dataset = load_checkpoint(teacher), PreparedDataset.load(str(folder))
    rows = dataset.rows("train")
    layers = block_ends(checkpoint.model.depth, 4)
    progress(f"  states of {Path(teacher).name} after layers {', '.join(map(str, layers))}")
    states = WindowPass(checkpoint.model, SignalsConfig(), "cpu").states(dataset, rows, layers, torch.float32)
    meta = StatesMeta(layers=layers, width=checkpoint.model.width, dtype="fp32")
    return StoredStates(meta, checkpoint.hash, rows, states, len(dataset.items))


if __name__ == "__main__":
    main(__doc__, body, minutes=60, arguments=arguments)
