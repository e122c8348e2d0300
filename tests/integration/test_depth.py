"""The depth study on Ray: two workers teach four layers by eight; the teacher has random weights, and is called so."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_jobs.on_ray import OnRay
from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.config import from_dict
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.errors import UserError
from recsys.serving.recommender import Recommender
from recsys.settings import Settings
from recsys.stages import depth, pipeline
from recsys.stages import student as student_stage
from recsys.stages import teacher as teacher_stage
from recsys.stages.executor import InProcess
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec
from recsys.teachers.config import E4SRecConfig
from recsys.teachers.e4srec import E4SRec
from recsys.teachers.layered import LayeredTeacher

TRAINING = {"epochs": 2, "batch_size": 64, "patience": 0}


@pytest.fixture
def settings(fixture_data: Path, tmp_path: Path) -> Settings:
    """A project with prepared data and, of random weights, a student whose item vectors are the ids and a teacher."""
    made = from_dict(
        Settings,
        {
            "name": "random-teacher",
            "storage": str(tmp_path),
            "tracking": {"uri": "none"},
            "teacher": {
                "model": {"kind": "e4srec", "ids_from": "ids", "width": 8, "heads": 1, "layers": 8},
                "training": TRAINING,
                "scaling": {"workers": 1, "cpus": 0.5},
            },
            "students": {
                "ids": {"model": {"kind": "sasrec", "width": 8, "heads": 1}},
                "middle": {"model": {"kind": "slmrec", "every": 2}},
                "small": {"model": {"kind": "slmrec", "layers": 1, "teacher": "middle"}, "alignment": {"blocks": 1}},
            },
            "depth": {
                "depths": [4],
                "ways": ["read-out", "distilled"],
                "compress": ["int8", "heads+int4"],
                "training": TRAINING,
                "scaling": {"workers": 2, "cpus": 0.5},
            },
            # Three of four cores a task: one after the other, in one process that has everything imported.
            "evaluation": {"latency_requests": 5, "sampled": {"negatives": 20}, "cpus": 3},
        },
    )
    dataset = prepare(DataConfig(path=str(fixture_data), max_history=10), "random-teacher")
    dataset.write(made.layout.dataset)
    torch.manual_seed(0)
    ids = SASRec(SASRecConfig(width=8, heads=1, max_positions=10), num_items=dataset.num_items)
    save_checkpoint(made.layout.student("ids"), ids, dataset)
    assert isinstance(made.teacher.model, E4SRecConfig)
    save_checkpoint(made.layout.teacher, E4SRec.build(made.teacher.model, ids.item_vectors().detach()), dataset)
    return made


@pytest.mark.ray
@pytest.mark.full
def test_study(ray_session: None, settings: Settings, fixture_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = depth.make(settings, executor=OnRay())
    printed = capsys.readouterr().out
    assert [(row["depth"], row["way"]) for row in study["rows"] if not row["compressed"]] == [
        (8, "full"), (4, "read-out"), (4, "distilled")
    ]  # fmt: skip
    size = {(row["way"], row["compressed"]): row["bytes"] for row in study["rows"]}
    assert size["full", "int8"] < size["full", ""] and size["distilled", "int8"] < size["distilled", ""]
    assert size["full", "heads+int4"] < size["full", ""]
    assert len(size) == 7 and "distilled, heads+int4" in printed
    assert "recommended: " in printed and "Depth study, random-teacher" in printed
    assert all(row["latency"]["median_ms"] > 0 and 0 < row["sampled"]["mrr"] <= 1 for row in study["rows"])
    layers = {row["way"]: row["parameters"]["layers"] for row in study["rows"] if not row["compressed"]}
    assert layers["full"] == 2 * layers["read-out"] == 2 * layers["distilled"]
    folder = Path(settings.layout.depth)
    assert {file.name for file in folder.iterdir()} == {"_SUCCESS", "depth.json", "depth.png", "depth.html"}
    page = (folder / "depth.html").read_text()
    assert "how deep the recommender needs to be" in page and "http" not in page.replace("http://www.w3.org", "")

    student = load_checkpoint(settings.layout.student("depth-4-distilled"))
    assert isinstance(student.model, LayeredTeacher) and student.model.depth == 4
    curve = student.info["training"]["curve"]
    parts = {"recommendation_loss", "cosine_alignment_loss", "norm_alignment_loss", "supervision_loss"}
    assert len(curve) == 2 and parts <= curve[0].keys()

    assert depth.make(settings, executor=OnRay()) == study
    assert "unchanged, kept" in capsys.readouterr().out
    prepare_other_data(settings, fixture_data)
    with pytest.raises(UserError, match=r"was trained on dataset .*; run train_teacher on this dataset"):
        depth.make(settings, executor=OnRay())


@pytest.mark.ray
@pytest.mark.full
def test_a_teacher_is_trained_on_the_ids(ray_session: None, settings: Settings) -> None:
    assert teacher_stage.make(settings, executor=OnRay())["epochs"] == 2
    teacher = load_checkpoint(settings.layout.teacher).model
    ids = load_checkpoint(settings.layout.student("ids")).model
    assert torch.equal(teacher.item_vectors(), ids.item_vectors())
    assert teacher_stage.make(settings, executor=OnRay()) == {}, "unchanged, kept"


def test_what_a_student_is_made_from_is_in_its_key(settings: Settings) -> None:
    with pytest.raises(
        UserError, match=r"there is no teacher of student small in .*; run distill --student middle first"
    ):
        student_stage.key(settings, "small")
    assert student_stage.order_students(settings) == ["ids", "middle", "small"]
    before = student_stage.key(settings, "middle"), teacher_stage.key(settings)
    dataset = student_stage.PreparedDataset.load(settings.layout.dataset)
    ids = SASRec(SASRecConfig(width=8, heads=1, max_positions=10), num_items=dataset.num_items)
    save_checkpoint(settings.layout.student("ids"), ids, dataset)
    assert teacher_stage.key(settings) != before[1], "other ids are another teacher"
    model: Any = settings.teacher.model
    save_checkpoint(settings.layout.teacher, E4SRec.build(model, ids.item_vectors().detach()), dataset)
    assert student_stage.key(settings, "middle") != before[0], "another teacher is another student"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": None}, "names student 'ids', but the configuration has: middle, small"),
        ({"ids": {"model": {"kind": "slmrec", "layers": 1}}}, "student 'ids' learns from the teacher itself"),
    ],
)
def test_a_teacher_needs_a_student_that_is_trained_alone(
    settings: Settings, changes: dict[str, Any], message: str
) -> None:
    students = {name: changes.get(name, {"model": {"kind": "slmrec", "layers": 1}}) for name in settings.students}
    made = from_dict(Settings, {"students": {name: value for name, value in students.items() if value is not None}})
    with pytest.raises(UserError, match=message):
        teacher_stage.key(dataclasses.replace(settings, students=made.students))


def test_a_compressed_student_is_made_without_training(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    def student(**model: Any) -> Settings:
        made = from_dict(Settings, {"students": {"small": {"model": {"kind": "compressed", **model}}}})
        return dataclasses.replace(settings, students={**settings.students, **made.students})

    small = student(compression={"weights": "int4", "heads": 0.5, "neurons": 0.5})
    student_stage.make(small, "small", executor=InProcess())
    assert "MB made 0.0" in capsys.readouterr().out
    path = Path(settings.layout.student("small"))
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (path, Path(settings.layout.teacher))]
    assert sizes[0] < sizes[1]
    served = Recommender.load(path)
    assert len(served.recommend([[served.catalogue.item_ids[3]]], k=5)[0]) == 5
    student_stage.make(small, "small", executor=InProcess())
    assert "student small: unchanged, kept" in capsys.readouterr().out
    assert student_stage.key(student(compression={"weights": "int8"}), "small") != student_stage.key(small, "small")
    with pytest.raises(
        UserError, match=r"there is no teacher of student small in .*; run distill --student middle first"
    ):
        student_stage.make(student(teacher="middle", compression={"weights": "int8"}), "small", executor=InProcess())
    with pytest.raises(UserError, match=r"students.small: only language-model recommenders .* is of kind sasrec"):
        student_stage.make(student(teacher="ids", compression={"weights": "int8"}), "small", executor=InProcess())
    with pytest.raises(UserError, match="nothing is made smaller; set weights, low_rank, heads or neurons"):
        student(compression={})


def test_depths_that_cannot_be(settings: Settings) -> None:
    assert depth.choose_depths(dataclasses.replace(settings, depth=depth_of()), 8) == [1, 2, 4]
    with pytest.raises(UserError, match=r"depths is \[8\], but the teacher has 8 layers"):
        depth.choose_depths(dataclasses.replace(settings, depth=depth_of(depths=[8])), 8)
    made = depth.make_students(dataclasses.replace(settings, depth=depth_of()), [3, 4], 8)
    blocks = {name: student.alignment.blocks for name, student in made.items() if student.alignment}
    assert blocks == {"depth-3-distilled": 1, "depth-4-distilled": 4}
    save_checkpoint(settings.layout.teacher, *_small(settings))
    with pytest.raises(UserError, match=r"needs a teacher of kind e4srec or hllm, .* is of kind sasrec"):
        depth.make(settings, executor=OnRay())


def prepare_other_data(settings: Settings, fixture_data: Path) -> None:
    shutil.rmtree(settings.layout.dataset)
    prepare(DataConfig(path=str(fixture_data), max_history=9), "other").write(settings.layout.dataset)


def test_a_teacher_of_other_data_is_not_studied(settings: Settings, fixture_data: Path) -> None:
    cells = [depth.Cell(8, "full", settings.layout.teacher), depth.Cell(4, "read-out", settings.layout.teacher, 4)]
    before = depth.key(settings, cells)
    prepare_other_data(settings, fixture_data)
    with pytest.raises(UserError, match=r"teacher .* was trained on dataset .*; run train_teacher on this dataset"):
        depth.make(dataclasses.replace(settings, depth=depth_of(depths=[4], ways=["read-out"])), executor=OnRay())
    assert depth.key(settings, cells) != before


def test_ways_to_compress_are_joined() -> None:
    study = depth_of(compress=["pruned+int4", "low-rank"], neurons=0.3)
    both = study.compression("pruned+int4")
    assert (both.neurons, both.weights, both.low_rank) == (0.3, "int4", None)
    with pytest.raises(UserError, match="compress has 'int3'; known: int8, int4, low-rank, pruned, heads"):
        depth_of(compress=["pruned+int3"])
    with pytest.raises(UserError, match="weights are int8 or int4"):
        depth_of(compress=["int8+int4"])


def depth_of(**values: Any) -> Any:
    return from_dict(Settings, {"depth": values}).depth


def _small(settings: Settings) -> tuple[SASRec, Any]:
    dataset = student_stage.PreparedDataset.load(settings.layout.dataset)
    return SASRec(SASRecConfig(width=8, heads=1, max_positions=10), num_items=dataset.num_items), dataset


def test_a_cycle_of_teachers_is_named() -> None:
    cycle = {name: {"model": {"kind": "slmrec", "layers": 1, "teacher": other}} for name, other in ("ab", "ba")}
    with pytest.raises(UserError, match="in the end it is its own teacher"):
        student_stage.order_students(from_dict(Settings, {"students": cycle}))


def test_the_pipeline_trains_the_ids_once_and_before_the_teacher(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, bool]] = []
    monkeypatch.setattr(student_stage, "make", lambda settings, name, executor, force: done.append((name, force)))
    monkeypatch.setattr(teacher_stage, "make", lambda settings, executor, force: done.append(("teacher", force)))
    steps = {name: pipeline.STEPS[name] for name in ("train_teacher", "distill")}
    pipeline.run(settings, InProcess(), steps, force=True)
    assert done == [("ids", True), ("teacher", True), ("ids", False), ("middle", True), ("small", True)]
