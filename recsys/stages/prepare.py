"""The prepared dataset: an interaction log and a catalogue, cleaned, ordered and split, written whole or not at all."""

import datetime
import json
import tempfile
import time
from pathlib import Path

from recsys.config import to_dict
from recsys.data.download import locate
from recsys.data.prepare import input_key, prepare
from recsys.data.prepared import PreparedDataset
from recsys.settings import Settings
from recsys.stages.artefacts import alone, is_current, start_run
from recsys.stages.executor import Executor, say


def key(settings: Settings) -> str:
    """Digest of the data section and of the content of the input files."""
    return input_key(settings.data, settings.name)


@alone(lambda settings, *_, **__: (settings.layout.dataset, "the prepared dataset"))
def make(settings: Settings, executor: Executor, *, force: bool = False) -> PreparedDataset:
    """Prepare the dataset at `settings.layout.dataset`, unless it is there already.

    Raises:
        UserError: the input cannot be found, fetched or parsed; nothing is written then.
    """
    uri, work_key = settings.layout.dataset, key(settings)
    if not force and is_current(uri, work_key):
        dataset = PreparedDataset.load(uri)
        say(f"dataset {uri} is up to date")
        for line in describe(dataset):
            say(line)
        return dataset
    started = time.monotonic()
    config = locate(settings.data, report=say)
    params = {"data": to_dict(settings.data)}
    with start_run(settings, "prepare_data", params=params, tags={"dataset": uri}) as tracked:
        dataset = prepare(config, settings.name, read=executor.read, report=say)
        dataset.write(uri, key=work_key)
        tracked.log_metrics({**dataset.facts, "seconds": time.monotonic() - started})
        tracked.set_tags({"fingerprint": dataset.fingerprint, "titles_hash": dataset.titles_hash})
        with tempfile.TemporaryDirectory() as folder:
            description = Path(folder) / "dataset.json"
            description.write_text(json.dumps(dataset.describe(), indent=2) + "\n")
            tracked.log_artifact(description)
    for line in describe(dataset):
        say(line)
    say(f"dataset written to {uri} in {time.monotonic() - started:.1f} s")
    return dataset


def describe(dataset: PreparedDataset) -> list[str]:
    """What a person wants to know of a dataset, as lines."""
    facts = dataset.facts
    first, last = (_day(facts[f"{end}_timestamp"]) for end in ("first", "last"))
    return [
        f"dataset {dataset.name}: {facts['users']:,} users, {facts['items']:,} items, "
        f"{facts['interactions']:,} interactions, density {facts['density']:.3%}",
        f"  protocol {dataset.protocol}: {facts['train_rows']:,} training, {facts['valid_rows']:,} validation, "
        f"{facts['test_rows']:,} test rows",
        f"  median sequence {facts['median_sequence']:g}, median test history {facts['median_history']:g} "
        f"(at most {dataset.max_history}), titles missing {facts['missing_titles']:.2%}, time {first} to {last}",
        f"  fingerprint {dataset.fingerprint[:12]}",
    ]


def _day(timestamp: int) -> str:
    """A date where the number looks like seconds since 1970 (1980 to 2100), else the number."""
    if 315_532_800 <= timestamp < 4_102_444_800:
        return datetime.datetime.fromtimestamp(timestamp, datetime.UTC).date().isoformat()
    return str(timestamp)
