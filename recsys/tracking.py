"""MLflow behind one module."""

from recsys.config import configuration


@configuration
class TrackingConfig:
    """Where runs are recorded.

    Attributes:
        uri: any MLflow server or store; default a SQLite store under the storage root.
        experiment: its name; default the project's name.
    """

    uri: str | None = None
    experiment: str | None = None
