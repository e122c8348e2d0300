"""What stages ask of each other's artefacts."""

from recsys import storage
from recsys.errors import UserError
from recsys.settings import Layout


def is_current(uri: str, key: str) -> bool:
    """Whether a complete artefact made from the same configuration and inputs is already there."""
    manifest = storage.read_manifest(uri)
    return manifest is not None and manifest.key == key


def required(uri: str, what: str, job: str) -> storage.Manifest:
    """The manifest of an input.

    Raises:
        UserError: it is not there yet.
    """
    manifest = storage.read_manifest(uri)
    if manifest is None:
        raise UserError(f"there is no {what} in {uri}; run {job} first")
    return manifest


def fingerprint(layout: Layout) -> str:
    """Fingerprint of the prepared dataset, from its manifest alone.

    Raises:
        UserError: it is not there yet.
    """
    return str(required(layout.dataset, "prepared dataset", "prepare_data").attributes["fingerprint"])
