"""A language-model recommender of this project with smaller weights, made without training."""

from typing import Any

from recsys.checkpoint import Checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.decoders.compression import compress
from recsys.decoders.quantised import numbers_and_bytes
from recsys.errors import UserError
from recsys.model import Made
from recsys.students.config import CompressedConfig
from recsys.teachers.layered import LayeredTeacher


def make_compressed(config: CompressedConfig, source: Checkpoint, dataset: PreparedDataset, **_: Any) -> Made:
    """The smaller copy of `source`.

    Raises:
        UserError: the source is no language-model recommender, or is of another dataset.
    """
    if not isinstance(source.model, LayeredTeacher):
        raise UserError(
            "only language-model recommenders (e4srec or hllm, and slmrec students) are compressed, but what it is "
            f"made from is of kind {source.model.kind}"
        )
    source.check_dataset(dataset, "what it is made from", "train that on this dataset")
    small = compress(source.model, config.compression)
    before, after = (float(numbers_and_bytes(model)[1]) for model in (source.model, small))
    return Made(small, f"{before / 1e6:.2f} MB made {after / 1e6:.2f} MB", {"bytes": after, "bytes_before": before})
