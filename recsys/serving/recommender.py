"""A checkpoint that recommends: catalogue ids in, catalogue ids out, plain Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from recsys.checkpoint import Checkpoint, load_checkpoint, save_again
from recsys.data.prepared import Catalogue
from recsys.errors import UserError
from recsys.histories import UNKNOWN_TIME, Histories
from recsys.serving.assignment import Scoring
from recsys.serving.memory import move_to_large_pages
from recsys.serving.scoring import Scores, build_scorer
from recsys.serving.selection import Candidates, Selection, choose

T = TypeVar("T")
Times = Sequence[Sequence[int] | None] | None
Wanted = Selection | Candidates | None


@dataclass(frozen=True)
class Recommendation:
    """The answer for one history, from the model to the HTTP response.

    Attributes:
        items: catalogue ids, best first.
        scores: the model's scores (logits), or training counts where no model was asked.
        unknown: ids of the history that the catalogue does not hold; they were ignored.
        fallback: no id of the history was known, so these are the most popular items.
        checkpoint: hash of the checkpoint that ranked; None where no model was asked.
        milliseconds: the model's pass that it was part of, catalogue ids to catalogue ids, where that was measured.
        waited: milliseconds before that pass began.
        together: histories in that pass.
        not_found: what of the selection the catalogue does not hold (`Candidates.not_found`); it was ignored.
    """

    items: list[str]
    scores: list[float]
    unknown: list[str]
    fallback: bool
    checkpoint: str | None = None
    milliseconds: float = 0.0
    waited: float = 0.0
    together: int = 0
    not_found: Mapping[str, list[str]] = field(default_factory=dict)


def popular(
    catalogue: Catalogue, history: Sequence[str], k: int, candidates: Candidates | None = None
) -> Recommendation:
    """What is recommended without a model: the most popular items of those that may be (`diversity` has no effect)."""
    known, unknown = catalogue.known(history)
    if candidates is None:
        items = catalogue.popular()[:k]
        scores = catalogue.train_counts[items].astype(float).tolist()
        return Recommendation([catalogue.item_ids[i] for i in items], scores, unknown, fallback=not known)
    ranked = catalogue.popular()
    ranked = ranked[candidates.mask(len(catalogue))[ranked]]
    counts = catalogue.train_counts.astype(float)
    chosen, scores = choose(lambda n: (ranked[:n], counts[ranked[:n]]), k, candidates, catalogue.attributes)
    ids = [catalogue.item_ids[i] for i in chosen]
    return Recommendation(ids, scores, unknown, fallback=not known, not_found=candidates.not_found)


class Recommender:
    """A loaded model with its catalogue: the same class for teachers and students.

    >>> Recommender.load("runs/demo/students/sasrec-distilled").recommend([["50", "172"]], k=10)  # doctest: +SKIP
    [['174', '181', ...]]

    Args:
        scoring: `exact` scores every item in full precision; `int8` scores every item roughly first, for a catalogue of
            several hundred thousand items on a CPU (`recsys.serving.scoring`). The answers are the same.

    Raises:
        UserError: this model cannot be scored so, or its item vectors are not finite.
    """

    def __init__(self, checkpoint: Checkpoint, scoring: Scoring = "exact") -> None:
        self.checkpoint = checkpoint
        self.catalogue = checkpoint.catalogue
        self._model = checkpoint.model
        self._device = next(iter(checkpoint.model.state_dict().values())).device  # rules have no parameters
        with torch.inference_mode():
            # Once for all requests: a teacher computes them from its texts.
            self._item_vectors = self._model.item_vectors()
        if not bool(torch.isfinite(self._item_vectors).all()):
            raise UserError("the checkpoint's item vectors are not all finite; train it again")
        self._item_vectors = move_to_large_pages(self._item_vectors, self._model)
        self.scoring: Scoring = scoring
        self._score = build_scorer(self._model, self._item_vectors, scoring)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", *, scoring: Scoring = "exact") -> "Recommender":
        """Load a checkpoint directory or URI.

        Raises:
            UserError: it is missing, incomplete or damaged, or cannot be scored so.
        """
        return cls(load_checkpoint(path, device), scoring)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        mask_seen: bool = True,
        times: Times = None,
        selection: Selection | None = None,
    ) -> list[list[str]]:
        """The `k` best items for each history (catalogue ids, oldest first), as catalogue ids, best first.

        >>> drama = Selection(where={"genres": ["Drama"]}, exclude=["50"])
        >>> recommender.recommend([["172"]], selection=drama)  # doctest: +SKIP
        """
        ranked = self.rank(histories, k, mask_seen=mask_seen, times=times, selection=selection)
        return [answer.items for answer in ranked]

    def rank(
        self,
        histories: Sequence[Sequence[str]],
        k: int | Sequence[int] = 10,
        *,
        mask_seen: bool | Sequence[bool] = True,
        times: Times = None,
        selection: Wanted | Sequence[Wanted] = None,
    ) -> list[Recommendation]:
        """`recommend` with scores and with what was ignored, in one pass.

        Args:
            k, mask_seen, selection: for all histories, or one for each.
            times: when the items of each history were met, in seconds, for a model that `uses_times`; others do not
                look. None, for all histories or for one, is not known, which such a model has learned from as well.
            mask_seen: never recommend an item of the history.
            selection: what may be recommended. Fewer than k items are returned where no more are left.

        Raises:
            UserError: k is not within 1..N, a history is empty, no list of ids, or has another number of times than of
                items; the selection names an attribute that the catalogue lacks.
        """
        check_histories(histories)
        ks, masks = _one_each(k, histories), _one_each(mask_seen, histories)
        for one in ks:
            if not 1 <= one <= len(self.catalogue):
                raise UserError(f"k must be between 1 and {len(self.catalogue)}, the size of the catalogue (got {one})")
        if not all(histories):
            raise UserError("a history is empty; give at least one item id")
        candidates = self._candidates(selection, histories)
        read = [self.catalogue.known(history) for history in histories]
        met = self._times(histories, times)
        scored = [row for row, (known, _) in enumerate(read) if known]
        ranked: dict[int, tuple[list[int], list[float]]] = {}
        if scored:
            best = self._top_k(
                [read[row][0] for row in scored],
                [ks[row] for row in scored],
                [masks[row] for row in scored],
                None if met is None else [met[row] for row in scored],
                [candidates[row] for row in scored],
            )
            ranked = dict(zip(scored, best, strict=True))
        return [
            self._recommendation(*ranked[row], unknown, candidates[row])
            if row in ranked
            else popular(self.catalogue, histories[row], ks[row], candidates[row])
            for row, (_, unknown) in enumerate(read)
        ]

    def add_items(self, items: Mapping[str, str]) -> "Recommender":
        """One that recommends new items (id → title) as well, and reads them in histories; this one stays as it is.

        Raises:
            UserError: see `recsys.serving.new_items.add_items`.
        """
        from recsys.serving.new_items import add_items

        return Recommender(add_items(self.checkpoint, items), self.scoring)

    def save(self, path: str | Path, *, key: str = "") -> "Recommender":
        """Write what `add_items` gave as a checkpoint with a hash of its own, and load it."""
        save_again(str(path), self.checkpoint, key=key)
        return Recommender.load(path, str(self._device), scoring=self.scoring)

    def titles(self, item_ids: Sequence[str]) -> list[str]:
        return [self.catalogue.titles[self.catalogue.index[i]] for i in item_ids]

    def _times(self, histories: Sequence[Sequence[str]], times: Times) -> list[list[int]] | None:
        """The times of the known items of each history, where the model looks at them."""
        if times is None or not self._model.uses_times:
            return None
        met = []
        for history, own in zip(histories, times, strict=True):
            if own is not None and len(own) != len(history):
                raise UserError(f"a history of {len(history)} items has {len(own)} times; give one for each item")
            seconds = [UNKNOWN_TIME] * len(history) if own is None else own
            met.append([t for i, t in zip(history, seconds, strict=True) if self.catalogue.number(i) is not None])
        return met

    def _candidates(
        self, selection: Wanted | Sequence[Wanted], histories: Sequence[Sequence[str]]
    ) -> list[Candidates | None]:
        """What each history's answer may hold; each selection is looked up once."""
        found = {id(one): one.find(self.catalogue) for one in _listed(selection) if isinstance(one, Selection)}
        each = _one_each(selection, histories)
        return [found[id(one)] if isinstance(one, Selection) else one for one in each]

    def _recommendation(
        self, items: list[int], scores: list[float], unknown: list[str], candidates: Candidates | None
    ) -> Recommendation:
        ids = [self.catalogue.item_ids[i] for i in items]
        not_found = {} if candidates is None else candidates.not_found
        return Recommendation(ids, scores, unknown, False, self.checkpoint.hash, not_found=not_found)

    @torch.inference_mode()
    def _top_k(
        self,
        histories: list[list[int]],
        ks: list[int],
        mask_seen: list[bool],
        times: list[list[int]] | None,
        candidates: list[Candidates | None],
    ) -> list[tuple[list[int], list[float]]]:
        """Items and scores of each history, best first."""
        limit = self.checkpoint.max_history
        recent = [history[-limit:] for history in histories]
        shown = Histories(
            self._pad(recent),
            torch.tensor([len(history) for history in recent], device=self._device),
            None if times is None else self._pad([one[-limit:] for one in times]),
        )
        scores = self._score(shown)
        for row, history in enumerate(histories):
            if mask_seen[row]:
                scores.leave_out(row, torch.tensor(history, device=self._device))
            if (one := candidates[row]) is not None and len(one.excluded):
                scores.leave_out(row, torch.from_numpy(one.excluded).to(self._device))
        chosen = {
            row: self._choose(scores, row, ks[row], one)
            for row, one in enumerate(candidates)
            if one is not None and not one.simple
        }
        if len(chosen) == len(ks):
            return [chosen[row] for row in range(len(ks))]
        ranked = [
            (items[:k].tolist(), values[:k].tolist())
            for (items, values), k in zip(scores.best_of_all(max(ks)), ks, strict=True)
        ]
        return [chosen.get(row, one) for row, one in enumerate(ranked)]

    def _choose(self, scores: Scores, row: int, k: int, candidates: Candidates) -> tuple[list[int], list[float]]:
        """Items and scores of one history."""
        among = None if candidates.allowed is None else torch.from_numpy(candidates.allowed).to(self._device)

        def best(n: int) -> tuple[np.ndarray, np.ndarray]:
            items, values = scores.best(row, n, among)
            return items.cpu().numpy(), values.cpu().numpy()

        return choose(best, k, candidates, self.catalogue.attributes, self._vectors)

    def _vectors(self, items: np.ndarray) -> np.ndarray:
        if not self._item_vectors.shape[1]:
            raise UserError("this model has no item vectors, which diversity compares; use at_most instead")
        return self._item_vectors[torch.from_numpy(items).to(self._device)].float().cpu().numpy()

    def _pad(self, rows: list[list[int]]) -> Tensor:
        """[B, L] int64 on the model's device, padded with 0 on the right."""
        padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for row, values in enumerate(rows):
            padded[row, : len(values)] = torch.tensor(values)
        return padded.to(self._device)


def _listed(value: T | Sequence[T]) -> Sequence[T]:
    return value if isinstance(value, Sequence) else [value]


def _one_each(value: T | Sequence[T], histories: Sequence[object]) -> list[T]:
    """What is given for all histories, or for each.

    Raises:
        UserError: it is given for another number of them.
    """
    if not isinstance(value, Sequence):
        return [value] * len(histories)
    if len(value) != len(histories):
        raise UserError(f"{len(value)} values are given for {len(histories)} histories; give one, or one for each")
    return list(value)


def check_histories(histories: Sequence[Sequence[str]]) -> None:
    """Refuse what is no list of lists of ids: a lone history, whose ids would be read letter by letter, or numbers.

    Raises:
        UserError: with what to write instead.
    """
    if isinstance(histories, str):
        raise UserError(f"histories is the text {histories!r}; give a list of histories, such as [[{histories!r}]]")
    for history in histories:
        if isinstance(history, str):
            raise UserError(f"a history is the text {history!r}; give a list of histories, such as [[{history!r}]]")
        for item in history:
            if not isinstance(item, str):
                raise UserError(f"an item id is {item!r}, but ids are text; give {str(item)!r}")
