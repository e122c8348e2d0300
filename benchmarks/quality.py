"""Quality of students alone, distilled students and teachers, over data sets, protocols and seeds: a store of cells.

    python benchmarks/quality.py [--minutes N] [--data-dir D] [--only 'ml-100k/*'] [--seeds 3] [--table]

A cell (`benchmarks/cells.py`) is one evaluation on test of one model of one `benchmarks/configs/*.yaml` with one seed.
A run fills missing cells, the most telling first (baselines, then seed by seed: softmax, teacher, distilled, BCE);
an interrupted training continues with the next run. `--table` only draws the table, and needs no data.

Each student is trained in this process with its own seed; the distilled ones of a data set learn from one teacher, that
of the configured seed. Checkpoints are selected on validation. The data set key is the name in the configuration and
that of the folder under --data-dir; relative paths in the configuration start there. Work goes under --storage.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from cells import Column, OutOfTimeError, Row, Store, Table, arguments, fill, show
from harness import FIXTURE, ROOT, Options, main, progress, scratch

from recsys.config import beyond_defaults, digest, from_dict, key_values, load_config
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.evaluation.config import name_rule
from recsys.rules.config import HybridConfig
from recsys.settings import Settings, WorkersConfig

STORE = Store(ROOT / "results" / "quality")
CONFIGS = ROOT / "configs"
RULES = ("sequential-rules", "sequential-rules-titles")  # fitted and tuned on validation together
BASELINES = ("recent-popularity", "co-occurrence", *RULES)
METRICS = ("ndcg@10", "hr@10", "ndcg@20", "hr@20")
SAYS = {
    True: "test, full ranking, items of the past left out",
    False: "test, full ranking, items of the past ranked as well or left out",
}
TRAINING = "rows weigh the same"  # what changes results of the same settings; renamed, student cells are computed anew
WITHOUT_MODEL = "rules"  # signals that need no teacher
_RANK = {"alone_softmax": 0, "taught": 1, "hybrid": 2, "teacher": 3, "distilled": 4}  # of a seed; others come after


@dataclass(frozen=True)
class Cell:
    """One evaluation.

    Attributes:
        column: "baseline", "teacher", "distilled" (by it), "taught" (by the rules), "hybrid" or "alone_<loss>".
        kind: the student's architecture; "" for others.
    """

    settings: Settings
    model: str
    column: str
    kind: str
    seed: int

    @property
    def id(self) -> str:
        return f"{self.settings.name}/{self.settings.data.protocol}/{self.model}.seed{self.seed}"

    @property
    def key(self) -> str:
        """Digest of what the cell depends on, wherever the data lies and however training is spread.

        Settings at their defaults do not count, so that a setting which is new leaves finished cells as they are.
        """
        settings = self.settings
        parts: list[Any] = [key_values(settings.data, defaults=False), self.model, self.seed]
        if self.model in RULES:
            rules = key_values(settings.rules, defaults=False)
            if self.model != RULES[1]:
                rules.pop("titles", None)
            parts.append(rules)
        elif self.column == "baseline":
            parts.append({name: getattr(settings.evaluation, name) for name in ("recent_days", "cooccurrence")})
        if self.column in ("teacher", "distilled"):
            parts.append([settings.teacher.model.kind, key_values(settings.teacher, defaults=False), TRAINING])
        if self.column == "distilled":
            parts.append({name: getattr(settings.signals, name) for name in ("k", "mask_history", "dtype")})
        if self.kind:
            # With the names of the signals it learns from, which are no part of a stage's key.
            student = replace(settings.students[self.model], scaling=WorkersConfig())
            parts.append([self.kind, beyond_defaults(student)])
            if self.column in ("taught", "hybrid"):
                parts.append(key_values(settings.rules, defaults=False))
            if student.model.made_from:
                parts.append(find_cell(settings, student.model.made_from, self.seed).key)
            parts.append(TRAINING)
        return digest(parts)


def cells(settings: Settings, seeds: int) -> Iterator[Cell]:
    """Every cell of a configuration; a baseline and the teacher have one seed."""
    for name in BASELINES:
        yield Cell(settings, name, "baseline", "", 0)
    yield Cell(settings, "teacher", "teacher", "", settings.teacher.training.seed)
    for name in settings.students:
        for seed in range(seeds):
            yield find_cell(settings, name, seed)


def find_cell(settings: Settings, name: str, seed: int) -> Cell:
    """The cell of a student."""
    student = settings.students[name]
    column = f"alone_{student.loss.kind}"
    if student.distillation:
        column = "taught" if student.distillation.signals == WITHOUT_MODEL else "distilled"
    elif student.model.with_rules:
        column = "hybrid"
    return Cell(settings, name, column, student.model.kind, seed)


def body(options: Options) -> dict[str, Any]:
    if options.quick:
        with scratch() as folder:
            settings, store = quick_settings(folder), Store(Path(folder, "store"))
            left_out = ("teacher", "distilled", RULES[1])  # what needs a language model
            wanted = [cell for cell in order_cells([settings], 1) if not {cell.column, cell.model} & {*left_out}]
            fill(store, wanted, prepare_dataset, compute, options)
            return show(tables(store, 1, [settings]))
    seeds, loaded = options.args.seeds, load(options.args.storage)
    fill(STORE, order_cells(loaded, seeds), prepare_dataset, compute, options)
    return show(tables(STORE, seeds, loaded))


def load(storage: str | None = None, folder: Path = CONFIGS) -> list[Settings]:
    changes = [f"storage={storage or Settings().layout.storage_root}", "tracking.uri=none"]
    return [load_config(Settings, file, changes) for file in sorted(folder.glob("*.yaml"))]


def tables(store: Store = STORE, seeds: int = 3, loaded: Sequence[Settings] | None = None) -> list[Table]:
    drawn = []
    for settings in load() if loaded is None else loaded:
        rows = [Row(name, list(row)) for name, row in groupby(cells(settings, seeds), key=lambda cell: cell.model)]
        masked = settings.evaluation.mask_seen
        drawn.append(Table(f"{settings.name}/{settings.data.protocol}", SAYS[masked], store, columns(masked), rows))
    return drawn


def columns(masked: bool) -> dict[str, Column]:
    """What a table shows; where its configuration ranks items of the past as well, as papers do that look at 20 items,
    also what a recommender reaches that leaves them out."""
    if masked:
        return {name.upper(): _read("masked", name) for name in METRICS}
    shown = [name for name in METRICS if name.endswith("@20")]
    return {
        **{name.upper(): _read("unmasked", name) for name in shown},
        **{f"{name.upper()}, past left out": _read("masked", name) for name in shown},
    }


def _read(rule: str, metric: str) -> Column:
    return Column(lambda value: value["metrics"][rule][metric])


def prepare_dataset(cell: Cell, options: Options) -> PreparedDataset:
    """The prepared data set of a cell's configuration, made once and kept under its storage."""
    from recsys import storage
    from recsys.data.download import locate
    from recsys.data.prepare import input_key, prepare

    settings, config = cell.settings, cell.settings.data
    if options.data_dir is not None or config.source != "ml-100k" or config.path is not None:
        folder = options.dataset(settings.name) if not Path(config.path or "").is_absolute() else Path()
        items = config.items_path and str(folder / config.items_path)
        config = replace(config, path=str(folder / (config.path or "")), items_path=items)
    uri, key = project_of(settings).layout.dataset, input_key(config, settings.name)
    if not storage.is_current(uri, key):
        prepare(locate(config, report=progress), settings.name, report=progress).write(uri, key=key)
    return PreparedDataset.load(uri)


def compute(cell: Cell, dataset: PreparedDataset, options: Options) -> dict[str, Any]:
    """Train what has to be trained, evaluate on test."""
    from recsys.checkpoint import load_checkpoint
    from recsys.evaluation.baselines import fit_baseline
    from recsys.evaluation.ranking import Scorer, model_scorer
    from recsys.evaluation.results import evaluate

    settings = project_of(cell.settings)
    facts: dict[str, Any] = {"checkpoint_hash": None, "training": {}, "parameters": {}}
    uri = ""
    if cell.model in RULES:
        facts |= {"role": "baseline", "seed": None}
        uri = _fit_rules(cell, settings)
    elif cell.column == "baseline":
        baseline = fit_baseline(cell.model, dataset, settings.evaluation)
        score: Scorer = baseline
        facts |= {"kind": cell.model, "role": "baseline", "seed": None, "parameters": {"served": baseline.stored}}
    else:
        facts |= {"role": "teacher" if cell.column == "teacher" else "student", "seed": cell.seed}
        uri = _train_teacher(settings, options) if cell.column == "teacher" else _train_student(cell, settings, options)
    if uri:
        checkpoint = load_checkpoint(uri)
        score = model_scorer(checkpoint.model)
        training = {k: v for k, v in checkpoint.info["training"].items() if k != "curve"}
        if "weights" in training:  # of hundreds the best
            training["weights"] = max(training["weights"], key=lambda tried: tried["valid"])
        facts |= {
            "kind": checkpoint.model.kind,
            "checkpoint_hash": checkpoint.hash,
            "training": {"training": training, "settings": checkpoint.info["settings"]},
            "parameters": {"served": sum(tensor.numel() for tensor in checkpoint.model.state_dict().values())},
        }
    batch_size = settings.evaluation.batch_size
    result, _ = evaluate(score, dataset, "test", batch_size=batch_size, name=cell.model, key=cell.key, **facts)
    progress(f"  NDCG@10 {result.metrics[name_rule(settings.evaluation.mask_seen)]['ndcg@10']:.4f}")
    return asdict(result)


def _fit_rules(cell: Cell, settings: Settings) -> str:
    """Checkpoint of the sequential rules, with their titles or without, fitted in this process unless it is there.

    Raises:
        UserError: titles are asked for, and there are none.
    """
    from recsys import storage
    from recsys.stages import rules

    uri, key = settings.layout.rules(cell.model), rules.key(settings)
    if not storage.is_current(uri, key):
        rules.fit(settings.rules, settings.layout, key)
        if storage.read_manifest(uri) is None:
            raise UserError(f"{cell.id}: the catalogue has no titles, or rules.titles is null")
    return uri


def _train_teacher(settings: Settings, options: Options) -> str:
    """Checkpoint of the configured teacher, trained in this process unless it is there."""
    from recsys.stages import teacher

    teacher.make(settings, in_process(settings.teacher.training.metric, options))
    return settings.layout.teacher


def _train_student(cell: Cell, settings: Settings, options: Options) -> str:
    """Checkpoint of a student of the cell's seed; its teacher's signals, or the student it is made from, on the way."""
    from recsys.stages import rules, student

    configured = settings.students[cell.model]
    executor = in_process(configured.training.metric, options)
    if cell.column == "distilled":
        make_signals(settings, options)
    elif cell.column in ("taught", "hybrid"):
        rules.make(settings, executor)
    model = configured.model
    if isinstance(model, HybridConfig):
        _train_student(find_cell(cell.settings, model.student, cell.seed), settings, options)
        model = replace(model, student=f"{model.student}.seed{cell.seed}")
    name = f"{cell.model}.seed{cell.seed}"
    seeded = replace(configured, model=model, training=replace(configured.training, seed=cell.seed))
    student.make(replace(settings, students={**settings.students, name: seeded}), name, executor)
    return settings.layout.student(name)


def make_signals(settings: Settings, options: Options) -> None:
    """The teacher's signals, ranked in this process unless they are there."""
    from recsys.stages import signals

    _train_teacher(settings, options)
    signals.make(settings, in_process(settings.teacher.training.metric, options))


def in_process(metric: str, options: Options) -> Any:
    """Stages in this process, until the time is up; the next run continues an interrupted training."""
    from recsys.stages.executor import InProcess
    from recsys.training.loop import Epoch

    def watch(name: str, epoch: Epoch) -> None:
        valid = epoch.metrics[f"valid_{metric}"]
        if epoch.number % 5 == 0 or epoch.finished or epoch.metrics["train_seconds"] > 5:
            progress(f"  {name}: epoch {epoch.number}, {metric} on validation {valid:.4f}")
        if options.seconds_left <= 0 and not epoch.finished:
            raise OutOfTimeError

    return InProcess(watch)


def order_cells(loaded: list[Settings], seeds: int) -> list[Cell]:
    """The most telling first: baselines, then by seed and column; data sets take turns."""
    every = [cell for settings in loaded for cell in cells(settings, seeds)]
    return sorted(every, key=lambda cell: (cell.column != "baseline", cell.seed, _RANK.get(cell.column, len(_RANK))))


def project_of(settings: Settings) -> Settings:
    """A project of its own for each data set and protocol, so that none disturbs a demo of the same name."""
    return replace(settings, name=f"quality-{settings.name}-{settings.data.protocol}")


def quick_settings(folder: str) -> Settings:
    """The tiny fixture, a small student with either loss."""
    model = {"kind": "sasrec", "width": 8, "blocks": 1, "heads": 1}
    training = {"epochs": 1}
    students = {
        "softmax": {"model": model, "training": training},
        "bce": {"model": model, "loss": {"kind": "bce"}, "training": training},
        "distilled": {"model": model, "training": training, "distillation": {}},
        "taught": {"model": model, "training": training, "distillation": {"signals": "rules", "embedding": None}},
        "hybrid": {"model": {"kind": "hybrid", "student": "taught"}},
    }
    data = {"path": str(FIXTURE)}
    tracking = {"uri": "none"}
    values = {"name": "fixture", "storage": folder, "data": data, "students": students, "tracking": tracking}
    values["rules"] = {"titles": None}
    return from_dict(Settings, values)


if __name__ == "__main__":
    main(__doc__, body, minutes=60, arguments=arguments)
