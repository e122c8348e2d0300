"""A student of the project as a part of a teacher."""

from recsys import storage
from recsys.checkpoint import Checkpoint, load_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError


def require_student(name: str, uri: str, *, field: str) -> str:
    """The URI of a student's checkpoint.

    Args:
        field: of the teacher's configuration, which names the student.

    Raises:
        UserError: it has none yet.
    """
    if storage.read_manifest(uri) is None:
        raise UserError(
            f"teacher.model.{field}: student {name!r} has no checkpoint in {uri}; run distill --student {name} first"
        )
    return uri


def load_student(name: str, uri: str, dataset: PreparedDataset, *, field: str) -> Checkpoint:
    """A student's checkpoint.

    Raises:
        UserError: it was trained on another dataset, or cannot be read.
    """
    checkpoint = load_checkpoint(uri)
    checkpoint.check_dataset(dataset, f"teacher.model.{field}: student {name!r}", f"run distill --student {name} again")
    return checkpoint
