"""A new kind is one module and one line: here a student and a teacher, this file being their module, taken from the log
to recommendations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from recsys import kinds, storage
from recsys.config import Field, configuration, from_dict, load_config, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.inference.ranking import WindowPass
from recsys.kinds import StudentConfig, TeacherConfig
from recsys.losses.config import RecommendationLossConfig
from recsys.model import CausalRecommender
from recsys.serving.recommender import Recommender
from recsys.settings import Settings
from recsys.signals.config import SignalsConfig
from recsys.signals.signals import TeacherSignals
from recsys.stages import pipeline
from recsys.stages.executor import InProcess
from recsys.students.config import TableConfig
from recsys.students.items import TableRecommender
from recsys.teacher import Teacher
from recsys.training.objective import NextItemObjective, Objective


@configuration
class MeanConfig(TableConfig):
    recommender: ClassVar[str] = f"{__name__}:Mean"
    kind: Literal["mean"] = "mean"


class Mean(TableRecommender):
    """Expects what is like the items so far."""

    kind = "mean"
    Config = MeanConfig

    def hidden(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        read_BLD = self.read(histories, vectors)
        counts = torch.arange(1, read_BLD.shape[1] + 1, device=read_BLD.device)
        return self.apply_similarity(read_BLD.cumsum(dim=1) / counts[:, None])


@configuration
class LastConfig(TeacherConfig):
    recommender: ClassVar[str] = f"{__name__}:Last"
    kind: Literal["last"] = "last"
    width: int = Field(default=8, ge=1)


class Last(Teacher, CausalRecommender):
    """Expects what used to follow the last item."""

    kind = "last"
    Config = LastConfig

    def __init__(self, config: LastConfig, *, num_items: int) -> None:
        super().__init__(config, num_items=num_items)
        self.items = nn.Embedding(num_items + 1, config.width)
        self.next = nn.Linear(config.width, config.width)

    @classmethod
    def prepare(cls, config: LastConfig, dataset: PreparedDataset, **_: Any) -> dict[str, str]:
        return {}

    @classmethod
    def objective(
        cls, config: LastConfig, dataset: PreparedDataset, inputs: Mapping[str, str], *, seed: int
    ) -> Objective:
        torch.manual_seed(seed)
        return NextItemObjective(cls(config, num_items=dataset.num_items), RecommendationLossConfig(), dataset)

    def item_vectors(self) -> Tensor:
        return self.items.weight

    def hidden(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        table = self.item_vectors() if vectors is None else vectors
        return self.next(table[histories.items].to(self.next.weight.dtype))

    def describe(self) -> dict[str, Any]:
        return {}

    def ready(self, config: SignalsConfig, device: str | torch.device) -> WindowPass:
        return WindowPass(self, config, device)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.STUDENTS, "mean", f"{__name__}:MeanConfig")
    monkeypatch.setitem(kinds.TEACHERS, "last", f"{__name__}:LastConfig")


@pytest.mark.usefixtures("registered")
def test_a_new_student_and_a_new_teacher_go_the_whole_way(project_root: Path, tmp_path: Path) -> None:
    settings = load_config(
        Settings,
        project_root / "ray_jobs/configs/fixture.yaml",
        [
            f"data.path={project_root / 'tests/fixtures/ml-tiny'}", f"storage={tmp_path}", "tracking.uri=none",
            "teacher.model={kind: last, width: 12}", "rules.titles=null", "rules.tuning=null",
            "students.sasrec.model={kind: mean}", "students.sasrec.model.width=24",
            "students.sasrec-distilled.model={kind: mean, similarity: cosine}",
        ],
    )  # fmt: skip
    assert settings.teacher.model == LastConfig(width=12) and settings.students["sasrec"].model == MeanConfig(width=24)
    pipeline.run(settings, InProcess())
    layout = settings.layout
    assert TeacherSignals.load(layout.signals, PreparedDataset.load(layout.dataset)).meta.teacher == "last"
    for name, kind in (("sasrec", Mean), ("sasrec-distilled", Mean)):
        recommender = Recommender.load(layout.student(name))
        assert type(recommender.checkpoint.model) is kind
        assert len(recommender.recommend([recommender.catalogue.item_ids[1:4]], k=5)[0]) == 5
    assert type(Recommender.load(layout.teacher).checkpoint.model) is Last
    rows = storage.read_json(storage.join(layout.results, "ladder.json"))["rows"]
    assert {row["kind"] for row in rows} >= {"mean", "last"}
    pipeline.run(settings, InProcess())  # nothing has changed


@pytest.mark.usefixtures("registered")
def test_its_settings_are_read_as_those_of_any_other() -> None:
    read: Any = from_dict(Settings, {"students": {"a": {"model": {"kind": "mean", "width": 3}}}})
    assert from_dict(Settings, to_dict(read)) == read
    with pytest.raises(UserError, match=r"students\.a\.model\.mean\.with: no such .* did you mean width\?"):
        load_config(Settings, None, ["students.a.model.kind=mean", "students.a.model.with=3"])


@pytest.mark.parametrize("model", [{"kind": "none"}, {"kind": ["mean"]}, {}, 3, MeanConfig()])
def test_what_is_not_registered_is_refused(model: Any) -> None:
    with pytest.raises(UserError, match=f"kind should be one of {', '.join(kinds.STUDENTS)}"):
        from_dict(Settings, {"students": {"a": {"model": model}}})


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_a_line_names_the_configuration_of_its_kind(kind: str) -> None:
    module, _, name = kinds.KINDS[kind].partition(":")
    found = getattr(__import__(module, fromlist=[name]), name)
    assert found.__annotations__["kind"] == Literal[kind]
    assert issubclass(found, StudentConfig) == (kind in kinds.STUDENTS)
    assert issubclass(found, TeacherConfig) == (kind in kinds.TEACHERS)
