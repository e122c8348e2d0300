"""What every kind of teacher offers the jobs that train it and run it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from recsys.data.prepared import PreparedDataset
from recsys.model import SequentialRecommender, model_class
from recsys.teachers.config import SignalsConfig

if TYPE_CHECKING:
    from recsys.training.objective import Objective

Progress = Callable[[int, int], None]
"""Called with (done, in all)."""


@dataclass(frozen=True)
class Rankings:
    """What a teacher says about S rows.

    Attributes:
        rows: [S] int64 ascending.
        items: [S, K] int32, best first.
        scores: [S, K] float32; their meaning is the teacher's `score_meaning`.
        target_distance: [S] float32; its meaning is the teacher's `distance_meaning`.
        log_mass: [S] float32, see `recsys.signals.signals.TeacherSignals.log_mass_outside`, or None.
        tokens: what the decoder read and wrote for all of them, without padding: items of the windows, or tokens of
            the distinct prompts and of the titles that were written.
    """

    rows: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    target_distance: np.ndarray
    log_mass: np.ndarray | None = None
    tokens: int = 0

    def of(self, chosen: np.ndarray) -> "Rankings":
        """Those of some rows, in the order of the indices or where the mask is true; `tokens` stays."""
        rows = {name: values[chosen] for name, values in vars(self).items() if isinstance(values, np.ndarray)}
        return dataclasses.replace(self, **rows)


def joined(parts: Sequence[Rankings]) -> Rankings:
    """Rankings of distinct rows as one, rows ascending."""
    together: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name, values in vars(parts[0]).items()
        if isinstance(values, np.ndarray)
    }
    merged = Rankings(**together, tokens=sum(part.tokens for part in parts))
    return merged.of(np.argsort(merged.rows))


def finite_only(rankings: Rankings) -> Rankings:
    """Without the rows whose prediction is not finite: one poisoned row must not cost a pass. None may be left, for
    they may have been asked for alone; whether the teacher itself is broken is seen when all rows are ranked."""
    return rankings.of(np.isfinite(rankings.scores).all(axis=1) & np.isfinite(rankings.target_distance))


class TeacherPass(Protocol):
    """A teacher ready to rank, on one device."""

    def rank(self, dataset: PreparedDataset, rows: np.ndarray) -> Rankings:
        """Rank the catalogue for rows (ascending offsets of targets) of any splits, but for those that are set aside
        because their prediction is not finite: see `finite_only`."""


class Teacher(SequentialRecommender):
    """A recommender that is trained to teach. Its class carries the kind's whole life:

    `prepare` (in one task of the cluster: what costs time once for all workers) → `objective` (in every training
    worker) → `finished` (once, with the trained weights) → checkpoint → `ready` (in every actor of the teacher pass).
    """

    score_meaning: ClassVar[str] = "logit"
    higher_is_better: ClassVar[bool] = True
    distance_meaning: ClassVar[str] = "l2 of unit-normalised vectors"
    default_train_rows: ClassVar[int | None] = None  # see `SignalsConfig.train_rows`
    default_rows_per_shard: ClassVar[int] = 8192  # see `SignalsConfig.rows_per_shard`

    @classmethod
    def prepare(
        cls,
        config: Any,
        dataset: PreparedDataset,
        *,
        cache: str,
        student: Callable[[str], str],
        progress: Progress | None = None,
    ) -> dict[str, str]:
        """Make what the teacher is built from besides the dataset.

        Args:
            cache: storage URI of a folder that all projects under one storage root share.
            student: from a student's name to the URI of its checkpoint.

        Returns:
            Storage URIs by name, which `objective` gets.

        Raises:
            UserError: something the configuration names is not there.
        """
        raise NotImplementedError

    @classmethod
    def objective(cls, config: Any, dataset: PreparedDataset, inputs: Mapping[str, str], *, seed: int) -> "Objective":
        """A new teacher with seeded initial weights and its loss.

        Raises:
            UserError: an input is damaged or does not fit.
        """
        raise NotImplementedError

    @property
    def computed_buffers(self) -> frozenset[str]:
        """Buffers that `export_state` gives as training left them; all others stay as the teacher was built with."""
        return frozenset()

    def finished(self, state: dict[str, Tensor], dataset: PreparedDataset) -> dict[str, Tensor]:  # noqa: ARG002
        """What the checkpoint holds, given the trained weights: a teacher that keeps something derived from them
        computes it here."""
        return state

    def item_embeddings(self) -> Tensor:
        """[N+1, D]: what the signals hold of each item, row 0 zero."""
        return self.item_vectors()

    def describe(self) -> dict[str, Any]:
        """What its signals say of it: where its language model comes from, and what its answers depend on besides."""
        raise NotImplementedError

    def ready(self, config: SignalsConfig, device: str | torch.device) -> TeacherPass:
        """This teacher behind an inference engine; it is taken over, converted in place."""
        raise NotImplementedError


def teacher_class(kind: str) -> type[Teacher]:
    """The class behind a kind of teacher."""
    found = model_class(kind)
    assert issubclass(found, Teacher)
    return found
