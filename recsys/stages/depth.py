"""The depth study: a language-model recommender read out, cut and distilled at several depths.

Every depth of the section `depth` is read out of the teacher as it is, trained alone and trained with it (SLMRec), as
students `depth-<layers>-<way>` of this project; all then rank validation and test rows and are timed in turn in one
process. `depth.json`, `depth.png` and `depth.html` go to `<storage>/<name>/depth`; what is finished and unchanged is
kept, and a study that was interrupted continues.
"""

import dataclasses
from functools import partial
from typing import Any

from recsys import environment, storage
from recsys.checkpoint import load_checkpoint
from recsys.config import copy_with, digest, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.data.splits import Split
from recsys.errors import UserError
from recsys.evaluation.config import EvaluationConfig
from recsys.evaluation.depth import METRIC, print_study, recommend, write_pictures
from recsys.losses.alignment import common_blocks
from recsys.settings import DepthConfig, Layout, Settings, StudentSettings
from recsys.stages import student as student_stage
from recsys.stages.artefacts import alone, fingerprint, is_current, require, start_run
from recsys.stages.executor import Executor
from recsys.students.config import SLMRecConfig


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model of the study.

    Attributes:
        layers: the checkpoint is read out after this many; None for all.
        compressed: how its weights are made smaller, "" for not at all.
    """

    depth: int
    way: str
    uri: str
    layers: int | None = None
    compressed: str = ""

    @property
    def name(self) -> str:
        return f"{self.depth}-{self.way}" + (f"-{self.compressed}" if self.compressed else "")


@alone(lambda settings, *_, **__: (settings.layout.depth, "the depth study"))
def make(settings: Settings, executor: Executor, *, force: bool = False) -> dict[str, Any]:
    """Train what is missing, measure, draw; returns the study (`recsys.evaluation.depth`).

    Raises:
        UserError: there is no teacher, it is of another dataset, has no layers to cut, or not as many as asked for.
    """
    layout = settings.layout
    require(layout.dataset, "prepared dataset", "prepare_data")
    require(layout.teacher, "teacher", "train_teacher")
    deepest = teacher_depth(layout.teacher, PreparedDataset.load(layout.dataset))
    depths = choose_depths(settings, deepest)
    students = make_students(settings, depths, deepest)
    with_students = dataclasses.replace(settings, students={**settings.students, **students})
    for name in students:
        student_stage.make(with_students, name, executor, force=force)
    cells = [Cell(deepest, "full", layout.teacher)]
    for depth in depths:
        for way in settings.depth.ways:
            if way == "read-out":
                cells.append(Cell(depth, way, layout.teacher, depth))
            else:
                cells.append(Cell(depth, way, layout.student(f"depth-{depth}-{way}")))
    trained = [cell for cell in cells if cell.layers is None]
    for compressed in settings.depth.compress:
        cells += [dataclasses.replace(cell, compressed=compressed) for cell in trained]
    work = key(settings, cells)
    uri = storage.join(layout.depth, "depth.json")
    if not force and is_current(layout.depth, work):
        print(f"depth: unchanged, kept ({layout.depth})", flush=True)
        study: dict[str, Any] = storage.read_json(uri)
    else:
        with start_run(settings, "depth", params=to_dict(settings.depth)) as recorded:
            study = _measure_all(settings, cells, executor)
            with storage.new_artifact(layout.depth, key=work) as directory:
                storage.write_json(str(directory / "depth.json"), study)
                write_pictures(directory, study)
                recorded.log_artifact(directory)
            recorded.log_metrics({f"{r['depth']}-{r['way']}{r['compressed']}": r["metrics"] for r in study["rows"]})
    print_study(study)
    print(f"depth: {storage.join(layout.depth, 'depth.html')}", flush=True)
    return study


def teacher_depth(uri: str, dataset: PreparedDataset) -> int:
    """Layers of a teacher's checkpoint.

    Raises:
        UserError: it is of another dataset, or no stack of layers.
    """
    from recsys.inference.replica import load_teacher
    from recsys.teachers.layered import LayeredTeacher

    model = load_teacher(uri, dataset).model
    if not isinstance(model, LayeredTeacher):
        raise UserError(f"a depth study needs a teacher of kind e4srec or hllm, but {uri} is of kind {model.kind}")
    return model.depth


def choose_depths(settings: Settings, deepest: int) -> list[int]:
    """The depths to try, ascending, below the teacher's."""
    depths = sorted(set(settings.depth.depths)) or [2**n for n in range(deepest.bit_length()) if 2**n < deepest]
    if not depths or depths[0] < 1 or depths[-1] >= deepest:
        raise UserError(
            f"depth.depths is {list(settings.depth.depths)}, but the teacher has {deepest} layers; "
            "name depths from 1 to one less, or train a deeper teacher"
        )
    return depths


def make_students(settings: Settings, depths: list[int], deepest: int) -> dict[str, StudentSettings]:
    """The students that the study trains, by name."""
    config = settings.depth
    students = {}
    for depth in depths:
        for way in config.ways:
            if way == "read-out":
                continue
            alignment = None
            if way == "distilled":
                blocks = max(b for b in common_blocks(depth, deepest) if b <= config.alignment.blocks)
                alignment = copy_with(config.alignment, blocks=blocks)
            students[f"depth-{depth}-{way}"] = StudentSettings(
                model=SLMRecConfig(kind="slmrec", layers=depth, start=config.start, rows=config.rows),
                alignment=alignment,
                training=config.training,
                scaling=config.scaling,
            )
    return students


def key(settings: Settings, cells: list[Cell]) -> str:
    """Digest of what the study depends on."""
    config = settings.evaluation
    inputs = [[cell.name, require(cell.uri, cell.name, "depth").content_hash] for cell in cells]
    shown = [config.mask_seen, config.latency_requests, config.sampled and to_dict(config.sampled)]
    small = [to_dict(settings.depth.compression(name)) for name in settings.depth.compress]
    return digest([inputs, fingerprint(settings.layout), shown, settings.depth.tolerance, small])


def _measure_all(settings: Settings, cells: list[Cell], executor: Executor) -> dict[str, Any]:
    layout, config = settings.layout, settings.evaluation
    asked: dict[str, Any] = {"cpus": config.cpus, "gpus": config.gpus, "section": "evaluation"}
    print(f"depth: ranking by {len(cells)} models", flush=True)
    rows = executor.call_all([partial(_rank, cell, layout, config, settings.depth) for cell in cells], **asked)
    # After the rest, alone.
    latency = executor.call(partial(_time, cells, layout, config, settings.depth), **asked)
    rows = [{**row, "latency": latency[cell.name]} for row, cell in zip(rows, cells, strict=True)]
    dataset = PreparedDataset.load(layout.dataset)
    return {
        "dataset": dataset.describe(),
        "test_rows": len(dataset.rows("test")),
        "metric": METRIC,
        "seen": "left out" if config.mask_seen else "ranked as well",
        "tolerance": settings.depth.tolerance,
        "full": rows[0],
        "rows": rows,
        "recommended": recommend(rows, rows[0], settings.depth.tolerance),
        "conditions": {**environment.conditions(), "depth": to_dict(settings.depth)},
    }


def _rank(cell: Cell, layout: Layout, config: EvaluationConfig, study: DepthConfig) -> dict[str, Any]:
    """One model ranks the rows of both splits."""
    from recsys.decoders.quantised import numbers_and_bytes
    from recsys.evaluation.metrics import metrics_from_ranks
    from recsys.evaluation.ranking import model_scorer, rank_targets
    from recsys.evaluation.sampled import measure_sampled

    dataset, model = PreparedDataset.load(layout.dataset), _load(cell, config, study)
    score = model_scorer(model)
    options: dict[str, Any] = {"batch_size": config.batch_size, "device": config.device}
    served, size = numbers_and_bytes(model)

    def metrics(split: Split) -> dict[str, float]:
        ranks = rank_targets(score, dataset, dataset.rows(split), mask_seen=config.mask_seen, **options)
        return metrics_from_ranks(ranks)

    sampled = config.sampled and measure_sampled(score, dataset, dataset.rows("test"), config.sampled, **options)
    return {
        "depth": cell.depth,
        "way": cell.way,
        "compressed": cell.compressed,
        "metrics": metrics("test"),
        "valid": metrics("valid"),
        "sampled": sampled,
        "parameters": {"served": served, "layers": numbers_and_bytes(model.decoder.layers)[0]},
        "bytes": size,
    }


def _time(
    cells: list[Cell], layout: Layout, config: EvaluationConfig, study: DepthConfig
) -> dict[str, dict[str, float]]:
    """Every model in one process, in turn."""
    from recsys.evaluation.latency import time_single_requests
    from recsys.evaluation.ranking import model_scorer

    dataset = PreparedDataset.load(layout.dataset)
    scorers = {cell.name: model_scorer(_load(cell, config, study)) for cell in cells}
    return time_single_requests(
        scorers, dataset, dataset.rows("test"), requests=config.latency_requests, device=config.device
    )


def _load(cell: Cell, config: EvaluationConfig, study: DepthConfig) -> Any:
    """The model, a `LayeredTeacher`."""
    from recsys.decoders.compression import compress

    model: Any = load_checkpoint(cell.uri, config.device).model
    if cell.layers is not None:
        model = model.cut(cell.layers)
    return compress(model, study.compression(cell.compressed)) if cell.compressed else model
