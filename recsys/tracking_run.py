"""A handle on one MLflow run, and what becomes of what cannot be recorded."""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import fs

from recsys import storage, tracking_store
from recsys.secrets import mask

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 100
_METRICS_BATCH = 1000  # what MLflow takes at once
_LONGEST_VALUE = 6000


@dataclass(frozen=True)
class Run:
    """A handle on one MLflow run, usable from any process that reaches the store.

    Attributes:
        uri: the tracking store; empty for a run that is recorded nowhere.
        id: MLflow's run id.
    """

    uri: str = field(default="", repr=False)  # it may hold a password
    id: str = ""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record numbers, at a step where they form a curve. Nested names are joined with dots, `@` becomes `_at_`.

        What is not a finite number is left out.
        """
        numbers = _numbers(metrics)

        now = int(time.time() * 1000)

        def write() -> None:
            from mlflow.entities import Metric

            for batch in _batches([Metric(name, value, now, step or 0) for name, value in numbers.items()]):
                self._client.log_batch(self.id, metrics=batch)

        self._record(f"{', '.join(numbers)}{'' if step is None else f' of step {step}'}", write)

    def log_curve(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Record what `log_metrics` would, for many steps at once; `epoch` of each record is its step."""

        now = int(time.time() * 1000)

        def write() -> None:
            from mlflow.entities import Metric

            points = [
                Metric(name, value, now, int(record["epoch"]))
                for record in records
                for name, value in _numbers(record).items()
                if name != "epoch"
            ]
            for batch in _batches(points, _METRICS_BATCH):
                self._client.log_batch(self.id, metrics=batch)

        self._record("curve", write)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings; nested names are joined with dots. A value once recorded cannot be changed."""

        def write() -> None:
            from mlflow.entities import Param

            values = {name.replace("@", "_at_"): str(value) for name, value in _flatten(params).items()}
            for batch in _batches([Param(name, mask(value)[:_LONGEST_VALUE]) for name, value in values.items()]):
                self._client.log_batch(self.id, params=batch)

        self._record("parameters", write)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        def write() -> None:
            from mlflow.entities import RunTag

            self._client.log_batch(self.id, tags=[RunTag(name, mask(str(value))) for name, value in tags.items()])

        self._record("tags", write)

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a local file, or the files of a local directory, into the run (under `folder`)."""

        def write() -> None:
            log = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
            log(self.id, str(path), folder)

        self._record(f"artefact {Path(path).name}", write, can_wait=False)  # its folder may soon be gone

    def log_file(self, uri: str, folder: str | None = None) -> None:
        """Copy a file of the storage into the run (under `folder`)."""
        system, path = storage.filesystem(uri)
        if isinstance(system, fs.LocalFileSystem):
            self.log_artifact(path, folder)
        elif self.uri:
            with tempfile.TemporaryDirectory() as directory:
                local = Path(directory, Path(path).name)
                fs.copy_files(path, str(local), source_filesystem=system, destination_filesystem=fs.LocalFileSystem())
                self.log_artifact(local, folder)

    def register(self, path: str | Path, model: str, content: str) -> None:
        """Copy a checkpoint's directory into the run and make it the newest version of a registered model.

        Args:
            content: hash of the checkpoint; what is registered already from this run is not registered again.
        """

        def write() -> None:
            known = self._client.search_model_versions(f"run_id = '{self.id}'")
            if any((version.name, version.tags.get("checkpoint")) == (model, content) for version in known):
                return
            folder = f"model-{content[:12]}"
            self._client.log_artifacts(self.id, str(path), folder)
            self._create_registered_model(model)
            source = f"runs:/{self.id}/{folder}"
            self._client.create_model_version(model, source=source, run_id=self.id, tags={"checkpoint": content})

        self._record(f"model {model}", write, can_wait=False)

    def register_result(self, model: str, tags: Mapping[str, Any], *, same: Sequence[str]) -> None:
        """Make what this run measured the newest version of a registered model, nothing being copied.

        Args:
            tags: of the version; nested names are joined with dots, `@` becomes `_at_`.
            same: names of tags; where a version has them all alike, it is that one, and nothing is registered.
        """
        said = {name.replace("@", "_at_"): mask(str(value)) for name, value in _flatten(tags).items()}

        def write() -> None:
            known = self._client.search_model_versions(f"name = '{model}'", max_results=1000)
            if any(all(version.tags.get(name) == said[name] for name in same) for version in known):
                return
            self._create_registered_model(model)
            # A server refuses sources outside the artefacts of the run; where the checkpoint is, the project knows.
            source = f"runs:/{self.id}/{model}"
            self._client.create_model_version(model, source=source, run_id=self.id, tags=said)

        self._record(f"model {model}", write)

    def _create_registered_model(self, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    @property
    def _client(self) -> "MlflowClient":
        return tracking_store.client(self.uri)

    def finish(self, status: str) -> None:
        """Record how it ended: FINISHED, FAILED or KILLED."""
        what = f"end of the run ({status})"
        self._record(what, lambda: self._client.set_terminated(self.id, status), even_if_away=True)

    def _record(
        self, what: str, write: Callable[[], None], *, even_if_away: bool = False, can_wait: bool = True
    ) -> None:
        """Write to the store. While that is away what can wait is kept, and written when it answers again."""
        if not self.uri:
            return
        if not even_if_away and tracking_store.is_away(self.uri):
            if can_wait:
                tracking_store.keep(self.uri, what, write)
            return
        try:
            tracking_store.check(self.uri)
            sent = tracking_store.send_kept(self.uri)
            write()
        except Exception as error:  # whatever it is, it must not end hours of training
            tracking_store.say(self.uri, what, error)
            if can_wait and tracking_store.is_outage(error):
                tracking_store.keep(self.uri, what, write)
        else:
            tracking_store.note_answer(self.uri, sent)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        name.replace("@", "_at_"): float(value)
        for name, value in _flatten(metrics).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _batches(entries: list[Any], size: int = _BATCH) -> Iterator[list[Any]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]
