"""What every kind of teacher offers the jobs that train it and run it."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from recsys.data.prepared import PreparedDataset
from recsys.decoders.item_encoder import Progress
from recsys.model import SequentialRecommender, model_class
from recsys.signals.config import SignalsConfig
from recsys.signals.rankings import Rankings
from recsys.training.objective import Objective


class TeacherPass(Protocol):
    """A teacher ready to rank, on one device."""

    def rank(self, dataset: PreparedDataset, rows: np.ndarray) -> Rankings:
        """Rank the catalogue for rows (ascending offsets of targets) of any splits, but for those that are set aside
        because their prediction is not finite: see `recsys.signals.rankings.finite_only`."""


class Teacher(SequentialRecommender):
    """A recommender that is trained to teach. Its class carries the kind's whole life:

    `prepare` (in one task of the cluster: what costs time once for all workers) → `objective` (in every training
    worker) → `finish` (once, with the trained weights) → checkpoint → `ready` (in every actor of the teacher pass).
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
    def objective(cls, config: Any, dataset: PreparedDataset, inputs: Mapping[str, str], *, seed: int) -> Objective:
        """A new teacher with seeded initial weights and its loss.

        Raises:
            UserError: an input is damaged or does not fit.
        """
        raise NotImplementedError

    @property
    def computed_buffers(self) -> frozenset[str]:
        """Buffers that `export_state` gives as training left them; all others stay as the teacher was built with."""
        return frozenset()

    def finish(self, state: dict[str, Tensor], dataset: PreparedDataset) -> dict[str, Tensor]:  # noqa: ARG002
        """What the checkpoint holds, given the trained weights: a teacher that keeps something derived from them
        computes it here."""
        return state

    def item_embeddings(self) -> Tensor:
        """[N+1, D]: what the signals hold of each item, row 0 zero."""
        return self.item_vectors()

    def text_embeddings(self) -> Tensor | None:
        """[N+1, W], what the signals hold of each item's title; none of a teacher without a text side of its own."""
        return None

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
