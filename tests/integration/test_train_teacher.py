"""A teacher of a pretrained model (a tiny one with random weights), named as a user of a shell would."""

from pathlib import Path

import pytest

from ray_jobs.on_ray import OnRay
from recsys.checkpoint import load_checkpoint
from recsys.config import load_config
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.decoders.loading import load_tokenizer
from recsys.settings import Settings
from recsys.stages import teacher as teacher_stage
from recsys.teachers.bigrec.config import BIGRecConfig
from recsys.teachers.bigrec.language_model import train_tokenizer
from tests.unit.teachers.bigrec.conftest import SMALL, save_base


@pytest.mark.full
@pytest.mark.ray
def test_a_model_in_a_relative_folder_is_adapted_and_finished_by_tasks(
    fixture_data: Path, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    options = [
        f"storage={tmp_path}", "name=p", "tracking.uri=none", "teacher.model.kind=bigrec", "teacher.model.base=base",
        "teacher.model.lora.rank=2", "teacher.model.max_tokens=400", "teacher.model.beams=1",
        "teacher.model.popularity=true", "teacher.model.train_rows=8", "teacher.model.valid_rows=4",
        "teacher.training.epochs=1", "teacher.scaling.workers=1", "teacher.scaling.cpus=0.5",
    ]  # fmt: skip
    settings = load_config(Settings, None, options)
    dataset = prepare(DataConfig(path=str(fixture_data), max_history=5), "p", report=lambda _: None)
    dataset.write(settings.layout.dataset)
    tokenizer = load_tokenizer(train_tokenizer(BIGRecConfig(**SMALL), dataset, str(tmp_path / "tokenizers")))
    save_base(tmp_path / "base", "Qwen2", tokenizer, len(tokenizer))
    monkeypatch.chdir(tmp_path)

    assert teacher_stage.make(settings, executor=OnRay())["epochs"] == 1
    checkpoint = load_checkpoint(settings.layout.teacher)
    assert checkpoint.model.config.base == str(tmp_path / "base")
    assert checkpoint.info["settings"]["model"]["base"] == "base"
    assert {file.name for file in Path(settings.layout.teacher, "adapter").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors"
    }  # fmt: skip
    assert teacher_stage.make(settings, executor=OnRay()) == {}, "unchanged, kept"
