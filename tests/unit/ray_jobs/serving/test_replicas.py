"""What the ingress makes of what Ray says of the teacher, and what replicas do whose files were replaced. No Ray."""

import asyncio
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from ray_jobs.serving import application, replicas
from recsys.checkpoint import save_checkpoint
from recsys.data.attributes import Attributes
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.serving.ranker import Ask, Away, Busy, Late
from recsys.serving.selection import Selection
from recsys.serving.service import Pinned
from recsys.settings import ServingConfig, Settings
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec

ASK = Ask(["i1"], 3, True)


class Answer:
    """What a handle gives: it hangs where the outcome is None."""

    cancelled = 0

    def __init__(self, outcome: Exception | None) -> None:
        self._outcome = outcome

    def __await__(self) -> Generator[Any, None, Any]:
        if self._outcome is None:
            yield from asyncio.sleep(60).__await__()
        raise self._outcome or AssertionError

    def cancel(self) -> None:
        Answer.cancelled += 1


def remote(outcome: Exception | None, uri: str = "/nowhere", seconds: float = 60) -> replicas.Remote:
    method = SimpleNamespace(remote=lambda *_: Answer(outcome))
    handle: Any = SimpleNamespace(rank=method, rank_together=method, facts=method)
    return replicas.Remote(handle, Pinned(("random", "f"), {"teacher": "0" * 64}), uri, seconds)


def test_a_full_queue_is_busy_and_a_lost_replica_away() -> None:
    with pytest.raises(Busy, match="as many requests wait for the teacher as may"):
        asyncio.run(remote(BackPressureError(64, 64)).rank(ASK))
    with pytest.raises(Away, match=r"the teacher does not answer \(RayActorError\); try again"):
        asyncio.run(remote(RayActorError()).rank(ASK))


@pytest.mark.parametrize("method", ["rank", "rank_together"])
def test_who_waited_as_long_as_may_be_is_told_and_the_teacher_let_off(method: str) -> None:
    before = Answer.cancelled
    with pytest.raises(Late, match=r"the teacher did not answer within 0\.05 s"):
        asyncio.run(getattr(remote(None, seconds=0.05), method)(ASK))
    assert Answer.cancelled == before + 1


@pytest.fixture
def settings(dataset: PreparedDataset, tmp_path: Path) -> Settings:
    settings = Settings(
        name="p", storage=str(tmp_path), serving=ServingConfig(student="small", arms=("teacher", "student", "null"))
    )
    dataset.write(settings.layout.dataset)
    write(settings, dataset, seed=0)
    return settings


def write(settings: Settings, dataset: PreparedDataset, seed: int) -> None:
    torch.manual_seed(seed)
    for uri in (settings.layout.teacher, settings.layout.student("small")):
        save_checkpoint(uri, SASRec(SASRecConfig(width=16, blocks=1), num_items=dataset.num_items), dataset)


def test_what_is_deployed_is_pinned(settings: Settings, dataset: PreparedDataset) -> None:
    pinned = application.check(settings)
    assert pinned.dataset == (dataset.name, dataset.fingerprint)
    replicas.load_ranker(settings, "teacher", pinned)
    write(settings, dataset, seed=1)
    with pytest.raises(UserError, match=r"the teacher was deployed from checkpoint \w{12}, which is \w{12} now"):
        replicas.Teacher(settings, pinned)
    away = remote(RayActorError(), settings.layout.teacher)
    with pytest.raises(Away, match=r"the teacher was deployed from checkpoint 0{12}, which is \w{12} now; deploy"):
        asyncio.run(away.facts())


def test_an_ingress_whose_student_was_replaced_serves_the_other_arms(
    settings: Settings, dataset: PreparedDataset
) -> None:
    pinned = application.check(settings)
    write(settings, dataset, seed=1)
    models = replicas.models(settings, pinned, None)
    with pytest.raises(Away, match="the student was deployed from checkpoint"):
        asyncio.run(models["student"].rank(ASK))


def test_a_replaced_dataset_is_refused(settings: Settings, dataset: PreparedDataset) -> None:
    pinned = application.check(settings)
    other = replace(dataset, user_ids=[f"v{user}" for user in dataset.user_ids], fingerprint="")
    other.write(settings.layout.dataset)
    with pytest.raises(UserError, match=r"dataset \w{12} was deployed, which is \w{12} now; deploy again"):
        replicas.load_dataset(settings, pinned)


def test_a_checkpoint_that_is_older_than_the_attributes_of_its_items_takes_those_of_the_dataset(
    settings: Settings, dataset: PreparedDataset
) -> None:
    write(settings, replace(dataset, catalogue=replace(dataset.catalogue, attributes=Attributes())), seed=0)
    ranker = replicas.load_ranker(settings, "student", application.check(settings))
    candidates = Selection(where={"genres": ["Drama"]}, at_most={"brand": 2}).find(dataset.catalogue)
    (answer,) = ranker.rank_now([replace(ASK, k=20, candidates=candidates)])
    found = dataset.catalogue.attributes.of(dataset.catalogue.index[item] for item in answer.items)
    assert found and all("Drama" in one["genres"] for one in found)
    assert sum("brand" in one for one in found) == 2


def test_the_student_alone_is_scored_as_asked(settings: Settings) -> None:
    pinned = application.check(settings)
    assert replicas.load_ranker(settings, "student", pinned).recommender.scoring == "exact"
    int8 = replace(settings, serving=replace(settings.serving, scoring="int8"))
    found = {arm: replicas.load_ranker(int8, arm, pinned).recommender.scoring for arm in ("student", "teacher")}
    assert found == {"student": "int8", "teacher": "exact"}


def test_a_log_in_a_bucket_is_refused(settings: Settings) -> None:
    logged = replace(settings, storage="s3://bucket/runs", serving=replace(settings.serving, log=True))
    with pytest.raises(UserError, match=r"cannot be at s3://bucket/runs/p/events; leave it out, or set storage to a"):
        application.application(logged)


def test_queues_have_an_end(settings: Settings) -> None:
    ingress = application.application(settings)._bound_deployment
    inner = [one._bound_deployment for one in ingress.init_args if hasattr(one, "_bound_deployment")]
    assert [deployment.name for deployment in inner] == ["Keeper", "Teacher"]
    for deployment in (ingress, *inner):
        assert 0 < deployment.max_queued_requests <= 1024
        assert (deployment.backpressure_config.status_code, deployment.backpressure_config.retry_after_s) == (503, 1)


@pytest.mark.parametrize(("surge", "percent"), [(True, 100), (False, 0)])
def test_models_are_replaced_beside_the_old_ones_where_there_is_room(
    settings: Settings, surge: bool, percent: int
) -> None:
    chosen = replace(settings, serving=replace(settings.serving, surge=surge))
    ingress = application.application(chosen)._bound_deployment
    found = [one._bound_deployment for one in ingress.init_args if hasattr(one, "_bound_deployment")] + [ingress]
    surges = {deployment.name: deployment._deployment_config.max_surge_percent for deployment in found}
    assert surges == {"Ingress": percent, "Teacher": percent, "Keeper": 0}, "two keepers would be two states"
