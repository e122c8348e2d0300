"""A checkpoint that recommends: catalogue ids in, catalogue ids out, plain Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recsys.checkpoint import Checkpoint, load_checkpoint, save_again
from recsys.data.prepared import Catalogue
from recsys.errors import UserError
from recsys.histories import UNKNOWN_TIME, Histories

Times = Sequence[Sequence[int] | None] | None


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
        together: histories in that pass.
    """

    items: list[str]
    scores: list[float]
    unknown: list[str]
    fallback: bool
    checkpoint: str | None = None
    milliseconds: float = 0.0
    together: int = 0


def popular(catalogue: Catalogue, history: Sequence[str], k: int) -> Recommendation:
    """What is recommended without a model: the most popular items."""
    known, unknown = catalogue.known(history)
    items = catalogue.popular()[:k]
    scores = catalogue.train_counts[items].astype(float).tolist()
    return Recommendation([catalogue.item_ids[i] for i in items], scores, unknown, fallback=not known)


class Recommender:
    """A loaded model with its catalogue: the same class for teachers and students.

    >>> Recommender.load("runs/demo/students/sasrec-distilled").recommend([["50", "172"]], k=10)  # doctest: +SKIP
    [['174', '181', ...]]
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.catalogue = checkpoint.catalogue
        self._model = checkpoint.model
        self._device = next(iter(checkpoint.model.state_dict().values())).device  # rules have no parameters
        with torch.inference_mode():
            # Once for all requests: a teacher computes them from its texts.
            self._item_vectors = self._model.item_vectors()
        if not bool(torch.isfinite(self._item_vectors).all()):
            raise UserError("the checkpoint's item vectors are not all finite; train it again")

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "Recommender":
        """Load a checkpoint directory or URI.

        Raises:
            UserError: it is missing, incomplete or damaged.
        """
        return cls(load_checkpoint(path, device))

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int = 10, *, mask_seen: bool = True, times: Times = None
    ) -> list[list[str]]:
        """The `k` best items for each history (catalogue ids, oldest first), as catalogue ids, best first."""
        return [answer.items for answer in self.rank(histories, k, mask_seen=mask_seen, times=times)]

    def rank(
        self, histories: Sequence[Sequence[str]], k: int = 10, *, mask_seen: bool = True, times: Times = None
    ) -> list[Recommendation]:
        """`recommend` with scores and with what was ignored.

        Args:
            times: when the items of each history were met, in seconds, for a model that `uses_times`; others do not
                look. None, for all histories or for one, is not known, which such a model has learned from as well.
            mask_seen: never recommend an item of the history. Fewer than k items are returned only where the
                catalogue has fewer left.

        Raises:
            UserError: k is not within 1..N, a history is empty, no list of ids, or has another number of times than of
                items.
        """
        check_histories(histories)
        if not 1 <= k <= len(self.catalogue):
            raise UserError(f"k must be between 1 and {len(self.catalogue)}, the size of the catalogue (got {k})")
        if not all(histories):
            raise UserError("a history is empty; give at least one item id")
        read = [self.catalogue.known(history) for history in histories]
        met = self._times(histories, times)
        scored = [row for row, (known, _) in enumerate(read) if known]
        shown = [read[row][0] for row in scored]
        best = self._top_k(shown, k, mask_seen, None if met is None else [met[row] for row in scored]) if scored else []
        ranked = dict(zip(scored, best, strict=True))
        ids, checkpoint = self.catalogue.item_ids, self.checkpoint.hash
        return [
            Recommendation([ids[i] for i in ranked[row][0]], ranked[row][1], unknown, False, checkpoint)
            if row in ranked
            else popular(self.catalogue, histories[row], k)
            for row, (_, unknown) in enumerate(read)
        ]

    def add_items(self, items: Mapping[str, str]) -> "Recommender":
        """One that recommends new items (id → title) as well, and reads them in histories; this one stays as it is.

        Raises:
            UserError: see `recsys.serving.new_items.add_items`.
        """
        from recsys.serving.new_items import add_items

        return Recommender(add_items(self.checkpoint, items))

    def save(self, path: str | Path, *, key: str = "") -> "Recommender":
        """Write what `add_items` gave as a checkpoint with a hash of its own, and load it."""
        save_again(str(path), self.checkpoint, key=key)
        return Recommender.load(path, str(self._device))

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

    @torch.inference_mode()
    def _top_k(
        self, histories: list[list[int]], k: int, mask_seen: bool, times: list[list[int]] | None
    ) -> list[tuple[list[int], list[float]]]:
        """Items and scores of each history, best first."""
        limit = self.checkpoint.max_history
        recent = [history[-limit:] for history in histories]
        shown = Histories(
            self._pad(recent),
            torch.tensor([len(history) for history in recent], device=self._device),
            None if times is None else self._pad([one[-limit:] for one in times]),
        )
        scores = self._model.scores(shown, self._item_vectors)
        scores[:, 0] = -torch.inf
        if mask_seen:
            for row, history in enumerate(histories):
                scores[row, history] = -torch.inf
        values, best = scores.topk(k, dim=1)
        finite = torch.isfinite(values).sum(dim=1)
        return [
            (items[:n], row[:n]) for items, row, n in zip(best.tolist(), values.tolist(), finite.tolist(), strict=True)
        ]

    def _pad(self, rows: list[list[int]]) -> Tensor:
        """[B, L] int64 on the model's device, padded with 0 on the right."""
        padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for row, values in enumerate(rows):
            padded[row, : len(values)] = torch.tensor(values)
        return padded.to(self._device)


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
