"""A distiller from its configuration."""

from typing import Any

from recsys.data.prepared import PreparedDataset
from recsys.distiller import Distiller
from recsys.distillers.lists import ListConfig
from recsys.kinds import DistillerConfig, import_place
from recsys.signals.signals import TeacherSignals


def build_distiller(
    config: DistillerConfig, signals: TeacherSignals, dataset: PreparedDataset, *, width: int, seed: int
) -> Distiller:
    """
    Args:
        width: of the student's item vectors.
        seed: of the exchange, where the configuration has the lists permuted.

    Raises:
        UserError: the signals lack what it learns from.
    """
    if isinstance(config, ListConfig) and config.permuted:
        signals = signals.permute(dataset.rows("train"), seed)
    made: Any = import_place(config.distiller)
    distiller: Distiller = made.build(config, signals, dataset, width=width)
    return distiller
