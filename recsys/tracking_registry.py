"""MLflow's model registry: the versions of a project's students, and the aliases that each name one of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from recsys import tracking, tracking_store
from recsys.errors import UserError
from recsys.secrets import mask
from recsys.tracking import TrackingConfig


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        tags: what was said of it when it was registered (`Run.register_result`), and later.
    """

    number: int
    tags: Mapping[str, str]

    def measured(self, name: str) -> float:
        """A number among the tags; NaN where there is none."""
        return float(self.tags.get(name.replace("@", "_at_"), "nan"))


class Registry:
    """The versions of one registered model.

    Args:
        store: URI of the directory of the default store (`Layout.mlflow`).

    Raises:
        UserError: nothing is recorded; and, as from every method, the store cannot be used.
    """

    def __init__(self, config: TrackingConfig, store: str, model: str) -> None:
        self._uri = tracking.describe(config, store)
        if self._uri == "none":
            raise UserError("tracking.uri is none, so there is no model registry; name an MLflow server or store")
        self._model = model

    def versions(self) -> list[Version]:
        """All of them, newest first."""
        with self._explain():
            found = tracking_store.client(self._uri).search_model_versions(
                f"name = '{self._model}'", max_results=1000, order_by=["version_number DESC"]
            )
        return [Version(int(version.version), dict(version.tags)) for version in found]

    def find(self, alias: str) -> Version | None:
        """The version that an alias names."""
        from mlflow.exceptions import MlflowException

        with self._explain():
            try:
                found = tracking_store.client(self._uri).get_model_version_by_alias(self._model, alias)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
        return Version(int(found.version), dict(found.tags))

    def set_alias(self, alias: str, number: int, tags: Mapping[str, str]) -> None:
        """Let an alias name another version, and say more of that version."""
        with self._explain():
            client = tracking_store.client(self._uri)
            for name, value in tags.items():
                client.set_model_version_tag(self._model, str(number), name, value)
            client.set_registered_model_alias(self._model, alias, str(number))

    @contextmanager
    def _explain(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of MLflow, SQLAlchemy, sqlite3, requests
            problem = f"MLflow store {mask(self._uri)} cannot be used: {tracking_store.reason(error)}"
            raise UserError(f"{problem}; mend tracking.uri") from None
