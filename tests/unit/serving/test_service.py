import dataclasses
from pathlib import Path

import pytest
from pydantic import ValidationError

from recsys import storage
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.serving.assignment import assign
from recsys.serving.experiment import Experiment, Kept
from recsys.serving.recommender import Recommendation
from recsys.serving.service import (
    EMPTY_HISTORY,
    BatchRequest,
    Item,
    Pinned,
    RecommendRequest,
    Service,
    check_same_dataset,
    checkpoint_facts,
    dataset_identity,
    sentence,
)

FIELDS = ", ".join(RecommendRequest.model_fields)
SPLIT = {"teacher": 0.5, "student": 0.5}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (RecommendRequest(history=["i1"], k=0), r"k must be between 1 and 20 \(got 0\)"),
        (RecommendRequest(history=["i1"], k=21), r"k must be between 1 and 20 \(got 21\)"),
        (RecommendRequest(), "give a user_id, a history, or both"),
        (RecommendRequest(history=["i1"] * 31), "history has 31 items; at most 30 are accepted"),
        (RecommendRequest(history=["i1"], exclude=["i1"] * 26), "exclude has 26 ids; at most 25 are accepted"),
        (RecommendRequest(history=["i1"], only=["i1"] * 26), "only has 26 ids; at most 25 are accepted"),
        (RecommendRequest(history=["i1"], where={"colour": ["red"]}), "no attribute 'colour'; known: genres, brand"),
        (RecommendRequest(history=["i1"], at_most={"colour": 1}), "no attribute 'colour'; known: genres, brand"),
    ],
)
def test_requests_that_are_refused(service: Service, request_: RecommendRequest, message: str) -> None:
    with pytest.raises(UserError, match=message):
        service.task(request_)


def test_no_more_items_than_there_are_can_be_asked_for(dataset: PreparedDataset) -> None:
    experiment = Kept(Experiment(arms=("null",), split={"null": 1.0}, salt="s", shadow=0))
    large = Service(
        dataset,
        arms=("null",),
        experiment=experiment,
        default_arm="null",
        max_k=1000,
        max_history=9,
        max_ids=9,
        max_requests=9,
    )
    answer = large.without_model(large.task(RecommendRequest(history=["i1"], k=60)))
    assert answer is not None
    assert len(answer.items) == dataset.num_items == 60
    with pytest.raises(UserError, match=r"k must be between 1 and 60 \(got 61\)"):
        large.task(RecommendRequest(history=["i1"], k=61))


@pytest.mark.parametrize("arm", ["null", "referee"])
def test_an_arm_that_is_not_served_is_refused(service: Service, arm: str) -> None:
    service.arms = ("teacher", "student")
    with pytest.raises(UserError, match=f"arm '{arm}' is not served here; served: teacher, student"):
        service.task(RecommendRequest(history=["i1"], arm=arm))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"k": "ten"}', "k: should be a valid integer (got 'ten')"),
        ('{"histroy": ["i1"]}', f"histroy: no such field; known: {FIELDS}"),
        ('{"arm": ""}', "arm: String should have at least 1 character (got '')"),
        ('{"history": [1]}', "history.0: should be a valid string (got 1)"),
        ('{"user_id": ""}', "user_id: String should have at least 1 character (got '')"),
        ('{"history": []}', "history is empty; give at least one item id, or leave it out and give a user_id"),
        ("[]", "body: should be an object (got [])"),
        ("{", "the body is not valid JSON"),
    ],
)
def test_bodies_that_are_refused(body: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RecommendRequest.model_validate_json(body)
    assert sentence(caught.value.errors()) == message


def test_a_long_wrong_value_is_not_sent_back_whole() -> None:
    with pytest.raises(ValidationError) as caught:
        RecommendRequest.model_validate({"user_id": "x" * 10_000})
    assert len(sentence(caught.value.errors())) < 200


def test_a_user_without_history_brings_the_whole_stored_one(service: Service, dataset: PreparedDataset) -> None:
    task = service.task(RecommendRequest(user_id="u3"))
    stored = dataset.items[dataset.offsets[3] : dataset.offsets[4]]
    assert task.history == [f"i{n}" for n in stored]
    assert (task.arm, task.assigned_by) == (assign("u3", SPLIT, "s"), "user")
    assert not task.unknown_user


def test_a_history_that_is_given_counts_more_than_the_stored_one(service: Service) -> None:
    task = service.task(RecommendRequest(user_id="u3", history=["i1", "?", "i2"]))
    assert task.history == ["i1", "?", "i2"] and service.without_model(task) is None
    nobody = service.without_model(dataclasses.replace(task, arm="null"))
    assert nobody is not None and nobody.unknown == ["?"] and not nobody.fallback


def test_ids_of_a_request_are_read_as_those_of_the_log(service: Service) -> None:
    plain, padded = (service.task(RecommendRequest(user_id=user)) for user in ("u3", "\ufeffu3 "))
    assert dataclasses.replace(padded, user_id="u3") == plain and not padded.unknown_user
    for number in range(20):
        plain, padded = (service.task(RecommendRequest(user_id=user)) for user in (f"v{number}", f" v{number}"))
        assert padded.arm == plain.arm
    answer = service.without_model(service.task(RecommendRequest(history=["i1 ", " i2", "i 3"], arm="null")))
    assert answer is not None and answer.unknown == ["i 3"] and not answer.fallback


def test_the_request_may_name_its_arm_and_nobody_gets_the_default(service: Service) -> None:
    named = service.task(RecommendRequest(user_id="u3", arm="teacher"))
    assert (named.arm, named.assigned_by) == ("teacher", "request")
    anonymous = service.task(RecommendRequest(history=["i1"]))
    assert (anonymous.arm, anonymous.assigned_by) == ("student", "default")
    assert not anonymous.unknown_user


def test_nothing_known_falls_back_to_popular_items(service: Service, dataset: PreparedDataset) -> None:
    for request in (RecommendRequest(user_id="stranger", k=3), RecommendRequest(history=["?"], k=3)):
        task = service.task(request)
        found = service.without_model(task)
        assert found is not None
        answer = service.response(task, found)
        assert answer.fallback and answer.model_ms == 0
        assert [item.item_id for item in answer.items] == [f"i{n}" for n in dataset.catalogue.popular()[:3]]
        assert answer.unknown_user == (request.user_id is not None)
        assert answer.unknown == (request.history or [])


def test_a_ranking_becomes_an_answer_with_titles(service: Service) -> None:
    task = service.task(RecommendRequest(history=["i1"], k=2))
    ranked = Recommendation(["i9", "i4"], [2.5, 1.5], [], False, checkpoint="abc", milliseconds=0.51, together=1)
    answer = service.response(task, ranked)
    assert [(i.item_id, i.title, i.score) for i in answer.items] == [
        ("i9", "Film number 9", 2.5),
        ("i4", "Film number 4", 1.5),
    ]
    assert answer.model_ms == 0.51 and not answer.fallback
    assert answer.checkpoint == "abc"


def test_without_a_model_a_selection_is_honoured(service: Service, dataset: PreparedDataset) -> None:
    catalogue = dataset.catalogue
    for asked in ({"history": ["i1"], "arm": "null"}, {"history": ["?"], "arm": "student"}):
        request = RecommendRequest(
            **asked,
            k=20,
            exclude=["i3", "lost"],
            only=["i9", "i3", "i15", "i4", "?"],
            where={"genres": ["Drama"]},
            attributes=True,
        )
        task = service.task(request, "r7")
        answer = service.without_model(task)
        assert answer is not None
        said = service.response(task, answer)
        expected = [i for i in catalogue.popular() if i in (9, 15)]
        assert [item.item_id for item in said.items] == [catalogue.item_ids[i] for i in expected]
        assert [item.attributes for item in said.items] == catalogue.attributes.of(expected)
        assert (said.fewer, said.request_id) == (18, "r7"), "not padded, and told"
        assert said.not_found == {"exclude": ["lost"], "only": ["?"]}


def test_a_batch_is_checked_request_by_request(service: Service) -> None:
    good, bad = RecommendRequest(user_id="u3"), RecommendRequest(history=["i1"], k=0)
    tasks = service.tasks([good, RecommendRequest(history=["i2"], arm="null")], "r")
    assert [(task.request_id, task.user_id, task.arm) for task in tasks][1:] == [("r.1", None, "null")]
    assert tasks[0] == service.task(good, "r.0")
    with pytest.raises(UserError, match=r"requests\.1: k must be between 1 and 20 \(got 0\)"):
        service.tasks([good, bad], "r")
    with pytest.raises(UserError, match="requests has 5 requests; at most 4 are accepted"):
        service.tasks([good] * 5, "r")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"requests": [{"k": 1, "q": 2}]}', f"requests.0.q: no such field; known: {FIELDS}"),
        ('{"requests": [], "k": 1}', "k: no such field; known: requests"),
        ('{"requests": [{"history": []}]}', f"requests.0.history: {EMPTY_HISTORY}"),
    ],
)
def test_batches_that_are_refused(body: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        BatchRequest.model_validate_json(body)
    assert message in sentence(caught.value.errors(), BatchRequest)


def test_an_item_is_found_by_its_id(service: Service) -> None:
    found = service.item(" i10 ")
    assert found is not None
    assert found.model_dump() == {
        "item_id": "i10", "title": "Film number 10", "attributes": {"genres": ["Comedy", "Horror"]},
    }  # fmt: skip
    assert service.item("i61") is None and service.item("") is None


def test_items_that_checkpoints_know_besides_have_titles_and_are_asked_of_the_model(
    dataset: PreparedDataset, experiment: Kept
) -> None:
    service = Service(
        dataset, arms=("student", "null"), experiment=experiment, default_arm="student",
        max_k=20, max_history=30, max_ids=25, max_requests=4, further_items={"new1": "Heat 2", "new2": ""},
    )  # fmt: skip
    task = service.task(RecommendRequest(history=["new1"], k=2, exclude=["new2", "lost"], attributes=True))
    assert service.without_model(task) is None, "the model may know it"
    said = service.response(task, Recommendation(["new1", "i4"], [2.5, 1.5], [], False, checkpoint="abc"))
    assert [(item.item_id, item.title) for item in said.items] == [("new1", "Heat 2"), ("i4", "Film number 4")]
    assert said.items[0].attributes == {} and said.items[1].attributes
    found = service.item("new1")
    assert found == Item(item_id="new1", title="Heat 2", attributes={})
    assert service.search("heat", 5).items == [found]
    assert [item.item_id for item in service.search("NEW2", 5).items] == ["new2"], "without a title, by its id"
    null = service.task(RecommendRequest(history=["i1"], k=3, arm="null", only=["new1", "i4"]))
    popular = service.without_model(null)
    assert popular is not None and popular.items == ["i4", "new1"], "nobody has met it in training"
    assert service.catalogue.popular()[:60].tolist() == dataset.catalogue.popular().tolist()


def test_checkpoints_of_another_dataset_are_refused(
    dataset: PreparedDataset, random_initialised: Path, tmp_path: Path
) -> None:
    dataset.write(str(tmp_path / "dataset"))
    facts = checkpoint_facts(str(random_initialised))
    manifest = storage.read_manifest(str(random_initialised))
    assert manifest is not None and facts["hash"] == manifest.content_hash and facts["kind"] == "sasrec"
    check_same_dataset(*dataset_identity(str(tmp_path / "dataset")), {"student": facts})
    other = dataclasses.replace(dataset, user_ids=[f"v{n}" for n in range(dataset.num_users)], fingerprint="")
    with pytest.raises(UserError, match=f"the student was trained on dataset 'random' .{dataset.fingerprint[:12]}"):
        check_same_dataset("other", other.fingerprint, {"student": facts})
    with pytest.raises(UserError, match=r"prepared dataset .*nowhere does not exist"):
        dataset_identity(str(tmp_path / "nowhere"))
    (random_initialised / "_SUCCESS").unlink()
    with pytest.raises(UserError, match=r"checkpoint .* does not exist or is incomplete"):
        checkpoint_facts(str(random_initialised))


def test_a_checkpoint_that_was_replaced_since_it_was_deployed_is_told() -> None:
    pinned = Pinned(("random", "f"), {"student": "0123456789abcdef"}, {"student": "/students/s"})
    assert pinned.describe_change("student", "0123456789abcdef") is None
    assert pinned.describe_change("student", "fedcba9876543210") == (
        "the student was deployed from checkpoint 0123456789ab, which is fedcba987654 now; deploy again"
    )
    assert "which is gone; deploy again" in (pinned.describe_change("student", None) or "")
