"""Results: one JSON file per evaluation, and beside it the rank of every row, so that models can be compared in pairs.

<name>.json            metrics by both rules for seen items, and everything needed to know what was measured
<name>.ranks.parquet   row, masked, unmasked
"""

import dataclasses
import hashlib
import io
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys import environment, storage
from recsys.data.prepared import PreparedDataset
from recsys.data.splits import Split
from recsys.errors import UserError
from recsys.evaluation.config import SampledConfig
from recsys.evaluation.metrics import metrics_from_ranks
from recsys.evaluation.ranking import Scorer, find_seen_targets, rank_targets
from recsys.evaluation.sampled import measure_sampled

# The two rules for items of the user's past: left out of the candidates, or ranked like any other.
RULES = {"masked": True, "unmasked": False}

RANKS_SCHEMA = pa.schema([("row", pa.int64()), ("masked", pa.int32()), ("unmasked", pa.int32())])


@dataclass(frozen=True)
class Ranks:
    """Rank of the target of each row: rows [R] int64 ascending, rule → [R] ranks."""

    rows: np.ndarray
    by_rule: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Result:
    """`<name>.json`.

    Attributes:
        name: of the student, "teacher", or of the baseline.
        role: "baseline", "student" or "teacher".
        kind: of the model ("sasrec", …) or baseline.
        key: digest of everything that went into it.
        metrics: rule ("masked", "unmasked") → metric → mean over all rows.
        rows: number of rows, the denominator of every mean.
        seen_targets: share of them whose target lies in the user's past; by the rule "masked" they are misses.
        split, protocol, dataset, fingerprint: what was ranked.
        seed: of the training, None for a baseline.
        checkpoint_hash: content hash, None for a baseline.
        parameters: "trainable" and "served" (frozen tables included) numbers, and "bytes" of what is served; a baseline
            serves the numbers it stores.
        training: what the checkpoint says of its making (settings, selection, learning curve).
        ranks_sha256: of the file with the ranks.
        sampled: metrics among sampled negatives (`recsys.evaluation.sampled`), where the configuration asks for them.
        seconds: ranking by both rules, loading excluded.
    """

    name: str
    role: str
    kind: str
    key: str
    metrics: dict[str, dict[str, float]]
    rows: int
    split: str
    protocol: str
    dataset: str
    fingerprint: str
    seed: int | None
    checkpoint_hash: str | None
    parameters: dict[str, int]
    training: dict[str, Any]
    seconds: float
    date: str
    versions: dict[str, str]
    hardware: dict[str, Any]
    ranks_sha256: str = ""
    sampled: dict[str, float] | None = None
    seen_targets: float = 0.0


def evaluate(
    score: Scorer,
    dataset: PreparedDataset,
    split: Split,
    *,
    batch_size: int,
    device: str = "cpu",
    sampled: SampledConfig | None = None,
    **facts: Any,
) -> tuple[Result, Ranks]:
    """Rank every row of `split` by both rules.

    Args:
        sampled: rank among sampled negatives as well.
        facts: the fields of `Result` that the scorer cannot tell (name, role, kind, key, seed, …).

    Raises:
        UserError: the split has no rows, or the model gives NaN scores.
    """
    rows = dataset.rows(split)
    if not len(rows):
        raise UserError(f"dataset {dataset.name!r} has no {split} rows; there is nothing to evaluate")
    started = time.perf_counter()
    try:
        by_rule = {
            rule: rank_targets(score, dataset, rows, mask_seen=mask, batch_size=batch_size, device=device)
            for rule, mask in RULES.items()
        }
        options: dict[str, Any] = {"batch_size": batch_size, "device": device}
        among = measure_sampled(score, dataset, rows, sampled, **options) if sampled else None
    except FloatingPointError as error:
        raise UserError(f"{facts['name']} cannot be evaluated: {error}; train it again") from None
    result = Result(
        metrics={rule: metrics_from_ranks(ranks) for rule, ranks in by_rule.items()},
        rows=len(rows),
        split=split,
        protocol=dataset.protocol,
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        seconds=round(time.perf_counter() - started, 3),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=environment.versions(),
        hardware=environment.hardware(),
        sampled=among,
        seen_targets=float(find_seen_targets(dataset, rows).mean()),
        **facts,
    )
    return result, Ranks(rows=rows, by_rule=by_rule)


def write_result(folder: str, result: Result, ranks: Ranks) -> Result:
    """Write both files under the URI `folder`; the JSON last, for it vouches for the ranks."""
    buffer = io.BytesIO()
    table = pa.table({"row": ranks.rows, **{rule: ranks.by_rule[rule].astype(np.int32) for rule in RULES}})
    pq.write_table(table.cast(RANKS_SCHEMA), buffer)
    data = buffer.getvalue()
    result = dataclasses.replace(result, ranks_sha256=hashlib.sha256(data).hexdigest())
    storage.write_bytes(storage.join(folder, f"{result.name}.ranks.parquet"), data)
    storage.write_json(storage.join(folder, f"{result.name}.json"), dataclasses.asdict(result))
    return result


def read_result(folder: str, name: str) -> Result | None:
    """The stored result, or None where there is none that can be read: it is then made again."""
    raw = storage.read_json_if_whole(storage.join(folder, f"{name}.json"))
    try:
        return Result(**raw) if isinstance(raw, dict) else None
    except TypeError:  # of another version
        return None


def read_ranks(folder: str, result: Result) -> Ranks:
    """The ranks of a stored result.

    Raises:
        UserError: the file is missing or is not the one that the result was computed from.
    """
    uri = storage.join(folder, f"{result.name}.ranks.parquet")
    if not storage.exists(uri):
        raise UserError(f"{uri} is missing; run evaluate again")
    data = storage.read_bytes(uri)
    if hashlib.sha256(data).hexdigest() != result.ranks_sha256:
        raise UserError(f"{uri} does not belong to {result.name}.json beside it; run evaluate again")
    table = pq.read_table(io.BytesIO(data), schema=RANKS_SCHEMA)
    return Ranks(rows=table["row"].to_numpy(), by_rule={rule: table[rule].to_numpy() for rule in RULES})


def is_current(folder: str, name: str, key: str) -> bool:
    """Whether a stored result was made from the same inputs, the ranks that belong to it there as well."""
    result = read_result(folder, name)
    if result is None or result.key != key:
        return False
    try:
        read_ranks(folder, result)
    except UserError:
        return False
    return True
