"""Versions and aliases in a real SQLite store."""

from pathlib import Path

import pytest

from recsys import tracking
from recsys.errors import UserError
from recsys.tracking import TrackingConfig
from recsys.tracking_registry import Registry


def test_versions_come_newest_first_and_an_alias_names_one(tmp_path: Path) -> None:
    store = str(tmp_path / "mlflow")
    registry = Registry(TrackingConfig(), store, "shop")
    assert registry.versions() == [] and registry.find("champion") is None
    with tracking.start_run(TrackingConfig(), store, "shop", "evaluate") as run:
        for checkpoint, ndcg in (("x", 0.1), ("y", 0.2), ("x", 0.3)):  # the third is the first
            tags = {"checkpoint": checkpoint, "masked": {"ndcg@10": ndcg}}
            run.register_result("shop", tags, same=("checkpoint",))
            run.register_result("shop-2", tags, same=("checkpoint",))
    assert [(v.number, v.tags["checkpoint"], v.measured("masked.ndcg@10")) for v in registry.versions()] == [
        (2, "y", 0.2), (1, "x", 0.1)
    ]  # fmt: skip
    registry.set_alias("champion", 1, {"promote.champion": "today"})
    registry.set_alias("next", 2, {})
    champion, other = registry.find("champion"), registry.find("next")
    assert champion is not None and other is not None and (champion.number, other.number) == (1, 2)
    assert champion.tags["promote.champion"] == "today" and "promote.champion" not in other.tags
    assert champion.measured("nothing") != champion.measured("nothing"), "not a number"


def test_a_store_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_text("no database")
    registry = Registry(TrackingConfig(uri=f"sqlite:///{tmp_path}/bad.db"), str(tmp_path), "shop")
    with pytest.raises(UserError, match=r"MLflow store .*bad\.db cannot be used: .*; mend tracking\.uri"):
        registry.find("champion")
