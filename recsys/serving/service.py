"""What an answer is made of, whatever carries it: requests checked, histories looked up, arms assigned.

No HTTP here, that is `recsys.serving.web`, and no Ray: `ray_jobs/serve.py` puts the models onto replicas.
"""

import reprlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from recsys import storage
from recsys.checkpoint import read_description
from recsys.data.ids import normal_id
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.serving.assignment import Arm, assign
from recsys.serving.experiment import Experiment, State
from recsys.serving.ranker import Ask
from recsys.serving.recommender import Recommendation, popular
from recsys.serving.selection import Selection

EMPTY_HISTORY = "history is empty; give at least one item id, or leave it out and give a user_id"
NOBODY = "give a user_id, a history, or both"

Id = Annotated[str, Field(min_length=1, max_length=256)]
Values = Annotated[list[Id], Field(min_length=1, max_length=100)]
Count = Annotated[int, Field(ge=1)]
AssignedBy = Literal["request", "user", "default"]
Failure = Literal["timeout", "busy", "away"]
"""Why an arm did not answer."""


class RecommendRequest(BaseModel):
    """Who asks, by user id, history or both."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "anyOf": [
                {"required": ["user_id"], "properties": {"user_id": {"type": "string"}}},
                {"required": ["history"], "properties": {"history": {"type": "array"}}},
            ]
        },
    )

    user_id: Id | None = Field(None, description="decides the arm; without a history the stored one is used, whole")
    history: Annotated[list[Id], Field(min_length=1)] | None = Field(None, description="catalogue ids, oldest first")
    k: int = Field(10, description="how many items to recommend")
    arm: Id | None = Field(None, description="ask for an arm instead of being assigned one")
    mask_seen: bool = Field(True, description="never recommend an item of the history (the null arm ignores this)")
    exclude: list[Id] = Field([], description="ids that are not recommended; unknown ones are told in not_found")
    only: list[Id] | None = Field(None, description="ids to choose from, such as what is in stock; null: all")
    where: dict[str, Values] = Field(
        {}, description="attribute → values: only items with one of the values, of every attribute that is named"
    )
    at_most: dict[str, Count] = Field({}, description="attribute → how many items of the answer may share a value")
    diversity: float = Field(
        0.0, ge=0, le=1, description="0 ranks by the model alone, 1 by variety alone (the null arm ignores this)"
    )
    attributes: bool = Field(False, description="tell the attributes of each item")

    def selection(self) -> Selection | None:
        """What may be recommended; None where nothing is asked for."""
        if self.only is None and not (self.exclude or self.where or self.at_most or self.diversity):
            return None
        return Selection(
            exclude=self.exclude, only=self.only, where=self.where, at_most=self.at_most, diversity=self.diversity
        )


class BatchRequest(BaseModel):
    """Several requests at once."""

    model_config = ConfigDict(extra="forbid", strict=True)

    requests: Annotated[list[RecommendRequest], Field(min_length=1)] = Field(
        description="those that get the same arm are answered in one pass of its model"
    )


class RecommendedItem(BaseModel):
    item_id: str
    title: str
    score: float
    attributes: dict[str, list[str]] | None = Field(None, description="name → values, where the request asks for them")


class RecommendResponse(BaseModel):
    items: list[RecommendedItem] = Field(description="best first; with diversity in the order of their choice")
    fewer: int = Field(description="how many items fewer than k: no more are left that may be recommended")
    request_id: str = Field(description="of the header X-Request-ID, or made; in a batch with the place behind a dot")
    user_id: str | None = Field(description="as asked")
    arm: Arm = Field(description="the one that was assigned, whoever answered: compare by this one")
    assigned_by: AssignedBy = Field(
        description="the request named the arm; hash of the user id; or no user id was given: leave those out of an A/B"
    )
    experiment: int = Field(description="version of the state of the experiment that assigned the arm")
    answered_by: Arm = Field(description="the arm, or the one that answers in place of an arm that did not")
    failed: Failure | None = Field(None, description="why another one answered in place of the arm")
    teacher_failed: Failure | None = Field(None, description="the same, where the arm is the teacher")
    checkpoint: str | None = Field(description="hash of the checkpoint that ranked; null where no model was asked")
    model_ms: float = Field(description="time in the model alone, measured in the replica; 0 where none was asked")
    queue_ms: float = Field(description="time the request waited in the replica for its turn in the model")
    unknown: list[str] = Field(description="items of the history that the catalogue does not hold; ignored")
    not_found: dict[str, list[str]] = Field(
        description="what the catalogue does not hold of exclude, only and where.ATTRIBUTE; ignored"
    )
    unknown_user: bool = Field(description="the user is not of the dataset")
    fallback: bool = Field(description="nothing of the history is known, so these are the most popular items")


class BatchResponse(BaseModel):
    answers: list[RecommendResponse] = Field(description="in the order of the requests")


class Item(BaseModel):
    """An item of the catalogue."""

    item_id: str
    title: str = Field(description="empty where it is not known")
    attributes: dict[str, list[str]] = Field(description="name → values")


class ItemList(BaseModel):
    items: list[Item] = Field(description="best first")
    more: bool = Field(description="there are further ones")


@dataclass(frozen=True, kw_only=True)
class Task(Ask):
    """A checked request, and who answers it.

    Attributes:
        arm: that was assigned.
        failed: why another arm answers, which is `answered_by` then.
    """

    arm: Arm
    assigned_by: AssignedBy
    experiment: int
    answered_by: Arm
    failed: Failure | None = None
    user_id: str | None
    unknown_user: bool
    attributes: bool
    request_id: str

    def fall_back(self, arm: Arm, failed: Failure) -> "Task":
        """The same request, answered by another arm."""
        return replace(self, answered_by=arm, failed=failed)


class Service:
    """The part of the application that every arm shares.

    Args:
        dataset: catalogue and stored histories; takes memory in proportion to its interactions.
        further_items: id → title of items that checkpoints know besides (docs/new-items.md).
        arms: the arms that are served.
        experiment: decides who gets which arm.
        default_arm: for requests that name neither user nor arm.
        max_k, max_history, max_ids, max_requests: what a request may ask for: items, ids in its history, ids in each of
            `exclude` and `only`, requests in a batch.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        *,
        arms: tuple[Arm, ...],
        experiment: State,
        default_arm: Arm,
        max_k: int,
        max_history: int,
        max_ids: int,
        max_requests: int,
        further_items: Mapping[str, str] | None = None,
    ) -> None:
        self.dataset = dataset
        self.catalogue = dataset.catalogue.extend(further_items) if further_items else dataset.catalogue
        self.arms = arms
        self.experiment = experiment
        self._default_arm = default_arm
        self.max_k = min(max_k, dataset.num_items)
        self.max_history = max_history
        self.max_ids, self.max_requests = max_ids, max_requests
        self.catalogue.attributes.warm()
        # By popularity; an item without a title is found by its id.
        names = (self.catalogue.titles, self.catalogue.item_ids)
        self._searched = [(int(n), _to_searched(names[0][n] or names[1][n])) for n in self.catalogue.popular()]
        self._users = {user_id: user for user, user_id in enumerate(dataset.user_ids)}

    def tasks(self, requests: Sequence[RecommendRequest], request_id: str) -> list[Task]:
        """Check the requests of a batch, as `task` does.

        Raises:
            UserError: there are too many, or one sentence on what is wrong with the first that is wrong.
        """
        if len(requests) > self.max_requests:
            raise UserError(f"requests has {len(requests)} requests; at most {self.max_requests} are accepted")
        tasks = []
        for place, request in enumerate(requests):
            try:
                tasks.append(self.task(request, f"{request_id}.{place}"))
            except UserError as error:
                raise UserError(f"requests.{place}: {error}") from None
        return tasks

    def task(self, request: RecommendRequest, request_id: str = "") -> Task:
        """Check a request and decide its arm.

        Raises:
            UserError: one sentence on what is wrong with it.
        """
        if not 1 <= request.k <= self.max_k:
            raise UserError(f"k must be between 1 and {self.max_k} (got {request.k})")
        if request.user_id is None and request.history is None:
            raise UserError(NOBODY)
        if request.history is not None and len(request.history) > self.max_history:
            raise UserError(f"history has {len(request.history)} items; at most {self.max_history} are accepted")
        if request.arm is not None and request.arm not in self.arms:
            raise UserError(f"arm {request.arm!r} is not served here; served: {', '.join(self.arms)}")
        for name, ids in (("exclude", request.exclude), ("only", request.only or [])):
            if len(ids) > self.max_ids:
                raise UserError(f"{name} has {len(ids)} ids; at most {self.max_ids} are accepted")
        if (selection := request.selection()) is not None:
            self.catalogue.attributes.require((*selection.where, *selection.at_most))
        user = self._users.get(normal_id(request.user_id)) if request.user_id is not None else None
        history = request.history
        if history is None:
            history = [] if user is None else self.dataset.sequence_ids(user)
        experiment = self.experiment.current
        arm, assigned_by = self._arm(request, experiment)
        return Task(
            history=history,
            k=request.k,
            mask_seen=request.mask_seen,
            selection=selection,
            arm=arm,
            assigned_by=assigned_by,
            experiment=experiment.version,
            answered_by=arm,
            user_id=request.user_id,
            unknown_user=request.user_id is not None and user is None,
            attributes=request.attributes,
            request_id=request_id,
        )

    def without_model(self, task: Task) -> Recommendation | None:
        """The most popular items at once: the null arm, and the others where nothing of the history is known."""
        if task.arm != "null" and self.catalogue.known(task.history)[0]:
            return None
        candidates = None if task.selection is None else task.selection.find(self.catalogue)
        return popular(self.catalogue, task.history, task.k, candidates)

    def response(self, task: Task, answer: Recommendation) -> RecommendResponse:
        """An answer as HTTP tells it."""
        catalogue = self.catalogue
        numbers = [catalogue.index.get(item_id, 0) for item_id in answer.items]
        known = catalogue.attributes.of(numbers) if task.attributes else [None] * len(numbers)
        return RecommendResponse(
            items=[
                RecommendedItem(item_id=item_id, title=catalogue.title(item_id), score=score, attributes=attributes)
                for item_id, score, attributes in zip(answer.items, answer.scores, known, strict=True)
            ],
            fewer=task.k - len(answer.items),
            request_id=task.request_id,
            user_id=task.user_id,
            arm=task.arm,
            assigned_by=task.assigned_by,
            experiment=task.experiment,
            answered_by=task.answered_by,
            failed=task.failed,
            teacher_failed=task.failed if task.arm == "teacher" else None,
            checkpoint=answer.checkpoint,
            model_ms=round(answer.milliseconds, 4),
            queue_ms=round(answer.waited, 4),
            unknown=answer.unknown,
            not_found=dict(answer.not_found),
            unknown_user=task.unknown_user,
            fallback=answer.fallback,
        )

    def item(self, item_id: str) -> Item | None:
        """An item of the catalogue by its id; None where there is none."""
        number = self.catalogue.number(item_id)
        return None if number is None else self._items([number])[0]

    def search(self, text: str, limit: int) -> ItemList:
        """Items whose title begins with a text, then those whose title holds it, most popular first in each."""
        wanted = _to_searched(text)
        first: list[int] = []
        later: list[int] = []
        for number, title in self._searched:
            if wanted in title:
                (first if title.startswith(wanted) else later).append(number)
                if len(first) > limit:
                    break
        found = first + later
        return ItemList(items=self._items(found[:limit]), more=len(found) > limit)

    def _items(self, numbers: Sequence[int]) -> list[Item]:
        catalogue = self.catalogue
        return [
            Item(item_id=catalogue.item_ids[n], title=catalogue.titles[n], attributes=attributes)
            for n, attributes in zip(numbers, catalogue.attributes.of(numbers), strict=True)
        ]

    def _arm(self, request: RecommendRequest, experiment: Experiment) -> tuple[Arm, AssignedBy]:
        if request.arm is not None:
            return request.arm, "request"
        if request.user_id is not None:
            return assign(normal_id(request.user_id), experiment.split, experiment.salt), "user"
        return self._default_arm, "default"


def _to_searched(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold().strip()


def checkpoint_facts(uri: str) -> dict[str, Any]:
    """Hash, kind and dataset of a checkpoint; a quick look that reads neither weights nor checksums.

    Raises:
        UserError: it is missing or incomplete.
    """
    manifest = storage.read_manifest(uri)
    if manifest is None:
        raise UserError(f"checkpoint {uri} does not exist or is incomplete; train it")
    config = read_description(uri)
    return {"hash": manifest.content_hash, "kind": config["kind"], "dataset": config["dataset"]}


def dataset_identity(uri: str) -> tuple[str, str]:
    """Name and fingerprint of a prepared dataset, without loading it.

    Raises:
        UserError: there is none, or it is incomplete.
    """
    if storage.read_manifest(uri) is None:
        raise UserError(f"prepared dataset {uri} does not exist or is incomplete; run prepare_data")
    meta = storage.read_json(storage.join(uri, "dataset.json"))
    return meta["name"], meta["fingerprint"]


@dataclass(frozen=True)
class Pinned:
    """What was deployed, and stays what is served until the next deployment.

    Attributes:
        dataset: name and fingerprint.
        checkpoints: hash of the checkpoint of every arm that has one.
        uris: where each of them lies; what an alias names later is not looked at.
    """

    dataset: tuple[str, str]
    checkpoints: dict[Arm, str]
    uris: dict[Arm, str]

    def describe_change(self, arm: Arm, found: str | None) -> str | None:
        """One sentence where an arm's checkpoint is another by now, or None."""
        deployed = self.checkpoints[arm]
        if found == deployed:
            return None
        now = "is gone" if found is None else f"is {found[:12]} now"
        return f"the {arm} was deployed from checkpoint {deployed[:12]}, which {now}; deploy again"


def check_same_dataset(dataset_name: str, fingerprint: str, arms: Mapping[Arm, Mapping[str, Any]]) -> None:
    """Refuse arms that were trained on another dataset than the one whose histories and titles are served.

    Raises:
        UserError: names the arm and both fingerprints.
    """
    for arm, facts in arms.items():
        theirs = facts["dataset"]["fingerprint"]
        if theirs != fingerprint:
            raise UserError(
                f"the {arm} was trained on dataset {facts['dataset']['name']!r} ({theirs[:12]}), but dataset "
                f"{dataset_name!r} ({fingerprint[:12]}) is to be served; train it on this dataset"
            )


def sentence(errors: Sequence[Any], form: type[BaseModel] = RecommendRequest) -> str:
    """What is wrong with the form of a request, from pydantic's list of errors, as one sentence.

    Args:
        form: of the body.
    """
    parts = []
    for error in errors[:3]:
        where = ".".join(str(part) for part in error["loc"] if part not in ("body", "query")) or "body"
        if error["type"] == "json_invalid":
            return "the body is not valid JSON"
        if error["type"] == "too_short" and error["loc"][-1] == "history":
            parts.append(EMPTY_HISTORY if where == "history" else f"{where}: {EMPTY_HISTORY}")
        elif error["type"] == "extra_forbidden":
            fields = (RecommendRequest if len(error["loc"]) > 2 else form).model_fields
            parts.append(f"{where}: no such field; known: {', '.join(fields)}")
        else:
            parts.append(f"{where}: {error['msg'].removeprefix('Input ')} (got {reprlib.repr(error['input'])})")
    return "; ".join(parts)
