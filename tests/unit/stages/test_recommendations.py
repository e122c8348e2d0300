"""The stage that recommends for everyone, in this process; on Ray: tests/integration/test_recommend_all.py."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from recsys import storage
from recsys.checkpoint import save_checkpoint
from recsys.config import load_config
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.serving.recommender import Recommender
from recsys.settings import Settings
from recsys.stages import recommendations
from recsys.stages.executor import InProcess
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    return random_dataset()


@pytest.fixture
def settings(tmp_path: Path, dataset: PreparedDataset) -> Settings:
    """A project of 12 users in shards of 5, with a student of random weights."""
    settings = load_config(
        Settings, None, [f"storage={tmp_path}", "name=p", "tracking.uri=none", "recommendations.users_per_shard=5"]
    )
    dataset.write(settings.layout.dataset)
    save(settings, dataset, seed=0)
    return settings


def save(settings: Settings, dataset: PreparedDataset, seed: int) -> None:
    torch.manual_seed(seed)
    model = SASRec(SASRecConfig(width=16, blocks=1, max_positions=dataset.max_history), num_items=dataset.num_items)
    save_checkpoint(settings.layout.student("s"), model, dataset)


def table(settings: Settings, users: str | None = None) -> list[dict]:
    return pq.read_table(storage.local_copy(recommendations.place(settings, "s", users))).to_pylist()


class Dies(InProcess):
    """Killed after one shard."""

    def rank(self, work, plan, missing) -> None:
        super().rank(work, plan, missing[:1])
        raise KeyboardInterrupt


def test_a_killed_run_goes_on_and_another_checkpoint_begins_anew(
    settings: Settings, dataset: PreparedDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        recommendations.make(settings, Dies(), "s")
    recommendations.make(settings, InProcess(), "s")
    said = capsys.readouterr().out
    assert "1 of 3 shards are already there" in said and "7 of 7 rows" in said
    first = table(settings)
    assert [row["user"] for row in first] == dataset.user_ids
    recommender = Recommender.load(settings.layout.student("s"))
    assert (
        first[4]["items"] == recommender.recommend([[f"i{n}" for n in dataset.items[slice(*dataset.offsets[4:6])]]])[0]
    )
    recommendations.make(settings, InProcess(), "s")
    assert "up to date" in capsys.readouterr().out

    with pytest.raises(KeyboardInterrupt):
        recommendations.make(settings, Dies(), "s", force=True)
    assert table(settings) == first, "the table stays until the new one is complete"
    save(settings, dataset, seed=1)
    recommendations.make(settings, InProcess(), "s")
    said = capsys.readouterr().out
    assert "already there" not in said and "12 of 12 rows" in said
    assert {row["checkpoint"] for row in table(settings)} == {
        Recommender.load(settings.layout.student("s")).checkpoint.hash
    }
    assert table(settings) != first
    assert [path.name for path in Path(settings.layout.recommendations).iterdir()] == ["s"], (
        "nothing unfinished is left"
    )


def test_a_shard_that_is_cut_short_is_done_again(settings: Settings) -> None:
    with pytest.raises(KeyboardInterrupt):
        recommendations.make(settings, Dies(), "s")
    (part,) = Path(settings.layout.recommendations).glob(".s-*/part-00000.parquet")
    part.write_bytes(part.read_bytes()[:-9])
    recommendations.make(settings, InProcess(), "s")
    assert len(table(settings)) == 12


def test_a_checkpoint_that_is_replaced_meanwhile_is_told(settings: Settings, dataset: PreparedDataset) -> None:
    class Slow(InProcess):
        def rank(self, work, plan, missing) -> None:
            save(settings, dataset, seed=1)
            super().rank(work, plan, missing)

    with pytest.raises(UserError, match="was replaced meanwhile; run recommend_all again"):
        recommendations.make(settings, Slow(), "s")


def test_users_of_a_file_have_a_table_of_their_own(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "new users.csv"
    file.write_text("user,history\n" + "".join(f"x{n},i{n + 1} i2\n" for n in range(11)))
    recommendations.make(settings, InProcess(), "s", str(file))
    rows = table(settings, str(file))
    assert [row["user"] for row in rows] == [f"x{n}" for n in range(11)]
    recommender = Recommender.load(settings.layout.student("s"))
    assert [row["items"] for row in rows] == recommender.recommend([[f"i{n + 1}", "i2"] for n in range(11)])
    (place,) = Path(settings.layout.recommendations).iterdir()
    assert place.name == "s-for-new-users"
    assert {path.name for path in place.iterdir()} == {"_SUCCESS", *(f"part-0000{n}.parquet" for n in range(3))}


def test_mistakes_are_one_line(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no checkpoint of 'nobody' in .*; run distill first"):
        recommendations.make(settings, InProcess(), "nobody")
    with pytest.raises(UserError, match=r"the model '\.\./x' cannot be a name"):
        recommendations.make(settings, InProcess(), "../x")
    much = load_config(Settings, None, [f"storage={tmp_path}", "name=p", "tracking.uri=none", "recommendations.k=61"])
    with pytest.raises(UserError, match="k must be between 1 and 60"):
        recommendations.make(much, InProcess(), "s")
    assert storage.read_manifest(recommendations.place(settings, "s")) is None
