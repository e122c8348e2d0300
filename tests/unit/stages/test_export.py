from collections.abc import Callable
from pathlib import Path

import pytest

from recsys import storage
from recsys.checkpoint import save_checkpoint
from recsys.config import load_config
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.settings import Settings
from recsys.stages import export
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec


def test_an_export_is_made_once_for_a_checkpoint(
    random_dataset: Callable[..., PreparedDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_config(Settings, None, [f"storage={tmp_path}", "name=p"])
    dataset = random_dataset()
    dataset.write(settings.layout.dataset)

    def save(width: int) -> None:
        model = SASRec(SASRecConfig(width=width, blocks=1, max_positions=8), num_items=dataset.num_items)
        save_checkpoint(settings.layout.student("s"), model, dataset)

    save(8)
    export.make(settings, "s", queries=True, model=False)
    folder = storage.local_copy(settings.layout.export("s"))
    told = storage.read_json(str(folder / "export.json"))
    assert {path.name for path in folder.iterdir()} == {"_SUCCESS", "export.json", "items.parquet", "queries.parquet"}
    assert (told["num_items"], told["users"], told["width"]) == (60, 12, 8) and "parity" not in told
    assert told["bytes"]["items.parquet"] == (folder / "items.parquet").stat().st_size
    export.make(settings, "s", queries=True, model=False)
    assert "up to date" in capsys.readouterr().out
    save(16)
    export.make(settings, "s")
    told = storage.read_json(str(folder / "export.json"))
    assert told["width"] == 16 and told["parity"]["difference"] <= told["parity"]["tolerance"] == 1e-4
    assert told["checkpoint"] == storage.read_manifest(settings.layout.student("s")).content_hash
    with pytest.raises(UserError, match="there is no checkpoint of 'nobody'"):
        export.make(settings, "nobody")
