"""The table of SLMRec: teachers, cut models retrained alone, and students taught block by block: a store of cells.

    python benchmarks/slmrec.py [--minutes N] [--data-dir D] [--only '4*'] [--seeds 3] [--table]

MovieLens 100K, leave-one-out. The item ids are those of one SASRec; teachers are E4SRec of 8 and of 32 layers, 64 wide,
from scratch, of one seed; every student starts from random weights or, where its name ends in `-start`, from its
teacher's first layers; the states of a teacher are computed once. A cell is one model with one seed, in
`benchmarks/results/slmrec/ml-100k/<model>.seed<n>.json`:
HR@1, HR@5, NDCG@5 and MRR among 999 sampled negatives (the paper's protocol, negatives fixed) and full ranking, on
test; the epoch is selected on validation. A run fills missing cells, the most telling first, until the time is up; what
it began is finished by the next run. `--table` only draws what is there. Work goes under --storage.
"""

import argparse
import json
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from harness import FIXTURE, ROOT, Options, main, progress, scratch

from recsys.config import beyond_defaults, digest, from_dict
from recsys.losses.config import AlignmentConfig, RecommendationLossConfig
from recsys.students.config import SASRecConfig, SLMRecConfig
from recsys.teachers.config import E4SRecConfig
from recsys.training.config import TrainingConfig

STORE = ROOT / "results" / "slmrec" / "ml-100k"
SAMPLED = ("hr@1", "hr@5", "ndcg@5", "mrr")
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


def models(ids_training: TrainingConfig, training: TrainingConfig) -> list[Model]:
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
    if options.quick:
        with scratch() as folder:
            return _quick(Path(folder), options)
    args, rows = options.args, models(IDS_TRAINING, TRAINING)
    wanted = [
        (model, seed)
        for seed in range(args.seeds)
        for model in rows
        if seed < (model.seeds or args.seeds) and fnmatch(model.name, args.only)
    ]
    missing = [(model, seed) for model, seed in wanted if read(STORE, model, seed) is None]
    progress(f"{len(wanted) - len(missing)} of {len(wanted)} cells are there")
    if missing and not args.table:
        from recsys.settings import Settings

        root = Path(args.storage or Settings().layout.storage_root) / "slmrec-ml-100k"
        fill(missing, options.dataset("ml-100k"), root, STORE, options)
    return table(rows, STORE, args.seeds)


def key(model: Model, seed: int) -> str:
    """Digest of what a cell depends on, the settings of what it is made from included."""
    above = [key(model.made_from, 0)] if model.made_from else []
    said = [model.config.kind, beyond_defaults(model.config), beyond_defaults(model.training)]
    return digest([*said, model.alignment and beyond_defaults(model.alignment), seed, above])


def read(store: Path, model: Model, seed: int) -> dict[str, Any] | None:
    """A stored cell, or None where there is none of these settings."""
    file = store / f"{model.name}.seed{seed}.json"
    value = json.loads(file.read_text()) if file.exists() else None
    return value if value and value["key"] == key(model, seed) else None


def fill(missing: list[tuple[Model, int]], data: Path, root: Path, store: Path, options: Options) -> None:
    """Compute cells until the time is up."""
    from recsys.data.config import DataConfig
    from recsys.data.prepare import prepare
    from recsys.data.prepared import PreparedDataset

    uri = str(root / "dataset")
    if not (root / "dataset").exists():
        prepare(DataConfig(path=str(data)), "ml-100k", report=progress).write(uri)
    dataset = PreparedDataset.load(uri)
    for model, seed in missing:
        if options.seconds_left <= 0:
            break
        progress(f"{model.name}, seed {seed} ({options.seconds_left / 60:.0f} min left)")
        value = compute(model, seed, dataset, root, options)
        if value is None:
            progress("  the time is up; the next run continues here")
            break
        store.mkdir(parents=True, exist_ok=True)
        (store / f"{model.name}.seed{seed}.json").write_text(json.dumps(value, indent=2) + "\n")
        progress(f"  NDCG@10 {value['metrics']['ndcg@10']:.4f}, HR@1 of 1,000 {value['sampled']['hr@1']:.4f}")


def compute(model: Model, seed: int, dataset: Any, root: Path, options: Options) -> dict[str, Any] | None:
    """Train unless it is there, and evaluate on test; None where the time does not suffice."""
    from recsys import environment
    from recsys.checkpoint import load_checkpoint
    from recsys.evaluation.config import SampledConfig
    from recsys.evaluation.results import evaluate

    uri = trained(model, seed, dataset, root, options)
    if uri is None:
        return None
    checkpoint = load_checkpoint(uri)
    from recsys.evaluation.ranking import model_scorer

    result, _ = evaluate(
        model_scorer(checkpoint.model),
        dataset,
        "test",
        batch_size=256,
        sampled=SampledConfig(),
        name=model.name,
        role="student",
        kind=checkpoint.model.kind,
        key=key(model, seed),
        seed=seed,
        checkpoint_hash=checkpoint.hash,
        training={},
        parameters={"served": sum(tensor.numel() for tensor in checkpoint.model.state_dict().values())},
    )
    return {
        "key": result.key,
        "model": model.name,
        "seed": seed,
        "sampled": result.sampled,
        "metrics": result.metrics["masked"],
        "unmasked": result.metrics["unmasked"],
        "rows": result.rows,
        "fingerprint": dataset.fingerprint,
        "parameters": result.parameters["served"],
        "training": checkpoint.info["training"],
        "versions": environment.versions(),
        "hardware": environment.hardware(),
    }


def trained(model: Model, seed: int, dataset: Any, root: Path, options: Options) -> str | None:
    """Checkpoint of a model, what it is made from trained first; None where the time is up before."""
    from recsys import storage
    from recsys.checkpoint import load_checkpoint, save_checkpoint
    from recsys.students.build import build_student
    from recsys.students.slmrec import build_slmrec
    from recsys.teachers.e4srec import E4SRec
    from recsys.training.loop import train_local

    uri, work, loss = str(root / f"{model.name}.seed{seed}"), key(model, seed), RecommendationLossConfig()
    manifest = storage.read_manifest(uri)
    if manifest is not None and manifest.key == work:
        return uri
    needed = trained(model.made_from, 0, dataset, root, options) if model.made_from else ""
    if needed is None:
        return None
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
            stored=states_of(needed, str(root / "dataset")) if model.alignment and model.alignment.stored else None,
            seed=seed,
        )
        # Every row of the table learns in windows that are cut anew in each epoch, those taught from stored states too:
        # the pass's windows would double the work on histories this long. Its states have seen half a window at least.
        objective.window_starts = lambda _: None

    def report(epoch: Any) -> None:
        valid = epoch.metrics[f"valid_{training.metric}"]
        progress(f"  {model.name}: epoch {epoch.number}/{training.epochs}, {training.metric} on validation {valid:.4f}")
        if options.seconds_left <= 0 and not epoch.finished:
            raise _OutOfTimeError

    try:
        result = train_local(objective, dataset, training, root / "unfinished" / work[:16], report=report)
    except _OutOfTimeError:
        return None
    done = result.progress
    seconds = round(sum(record["train_seconds"] for record in done.curve), 1)
    info = {"best_epoch": done.best_epoch, "epochs": done.epoch, "valid": done.best, "train_seconds": seconds}
    save_checkpoint(uri, objective.model, dataset, state=result.state, key=work, info={"training": info})
    return uri


@cache
def states_of(teacher: str, dataset_uri: str) -> Any:
    """A teacher's states after every quarter of its layers, for all training rows; computed once a run."""
    import torch

    from recsys.checkpoint import load_checkpoint
    from recsys.data.prepared import PreparedDataset
    from recsys.inference.ranking import WindowPass
    from recsys.losses.alignment import block_ends
    from recsys.signals.config import SignalsConfig
    from recsys.signals.states import StatesMeta, StoredStates

    checkpoint, dataset = load_checkpoint(teacher), PreparedDataset.load(dataset_uri)
    rows = dataset.rows("train")
    layers = block_ends(checkpoint.model.depth, 4)
    progress(f"  states of {Path(teacher).name} after layers {', '.join(map(str, layers))}")
    states = WindowPass(checkpoint.model, SignalsConfig(), "cpu").states(dataset, rows, layers, torch.float32)
    meta = StatesMeta(layers=layers, width=checkpoint.model.width, dtype="fp32")
    return StoredStates(meta, checkpoint.hash, rows, states, len(dataset.items))


class _OutOfTimeError(Exception):
    """The time is up; what was trained so far is kept for the next run."""


def table(rows: list[Model], store: Path, seeds: int) -> dict[str, Any]:
    """What exists, drawn and returned: model → metric → mean and spread over seeds."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(
        "", *(f"{name} of 1,000" for name in ("HR@1", "HR@5", "NDCG@5", "MRR")), "NDCG@10 full", box=box.SIMPLE_HEAD
    )
    figures: dict[str, Any] = {}
    missing = 0
    for model in rows:
        count = min(seeds, model.seeds or seeds)
        found = [value for seed in range(count) if (value := read(store, model, seed))]
        missing += count - len(found)
        if not found:
            continue
        summary = {name: _summary([value["sampled"][name] for value in found]) for name in SAMPLED}
        summary["full ndcg@10"] = _summary([value["metrics"]["ndcg@10"] for value in found])
        figures[model.name] = {"seeds": len(found), **summary}
        drawn.add_row(f"{model.says} ({len(found)})", *(_text(value) for value in summary.values()))
    progress("\nml-100k, test, mean ± deviation (seeds); among 999 sampled negatives, and full ranking")
    Console(stderr=True, width=140, no_color=True, highlight=False).print(drawn)
    return {**figures, "missing": missing}


def _summary(values: list[float]) -> dict[str, float | None]:
    return {"mean": mean(values), "spread": stdev(values) if len(values) > 1 else None}


def _text(value: dict[str, float | None]) -> str:
    spread = f" ± {value['spread']:.4f}" if value["spread"] is not None else ""
    return f"{value['mean']:.4f}{spread}"


def _quick(folder: Path, options: Options) -> dict[str, Any]:
    """The tiny fixture: the ids, the teacher and one student, an epoch each."""
    short = replace(TRAINING, epochs=1)
    rows = [model for model in models(short, short) if model.name in ("sasrec", "e4srec-8", "4from8")]
    fill([(model, 0) for model in rows], FIXTURE, folder, folder / "store", options)
    return table(rows, folder / "store", 1)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=3, help="seeds per student (default 3)")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="models to fill, such as '4*'")
    parser.add_argument("--table", action="store_true", help="only draw the table")
    parser.add_argument("--storage", metavar="ROOT", help="where work is kept (default: $RECSYS_STORAGE, else ./runs)")


if __name__ == "__main__":
    main(__doc__, body, minutes=60, arguments=arguments)
