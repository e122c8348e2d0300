"""An experiment as far as it has come: what each arm did, how they differ, and what follows, as plain JSON values."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow as pa

from recsys.config import to_dict
from recsys.errors import UserError
from recsys.evaluation.percentiles import Percentiles, bootstrap_percentiles
from recsys.experiment.balance import compare_with_split
from recsys.experiment.config import ExperimentConfig
from recsys.experiment.intervals import Interval, Mean, confide, estimate_mean, estimate_share
from recsys.experiment.outcomes import measure_coverage, read_outcomes, sum_by_user
from recsys.experiment.verdict import Guardrail, decide

LEVELS = (50.0, 95.0, 99.0)
# What is compared: better when it is higher?
MEASURES = {"click_through": True, "errors": False, "fallbacks": False, "coverage": True}


def analyse(events: pa.Table, config: ExperimentConfig, split: Mapping[Any, float], version: int = 1) -> dict[str, Any]:
    """
    Args:
        events: of `recsys.serving.events.read_events`.
        split: arm → share of the users that it was given.
        version: of the state of the experiment whose split that is; requests of other versions are left out.

    Returns:
        `verdict` and `reason`; `users`, their `p` by the split; per arm its counts, shares with the intervals of a
        confidence sequence, and percentiles of its time with bootstrap intervals over users (of this look alone);
        `differences` (treatment − control) of both kinds. Bounds that are not known yet are null.

    Raises:
        UserError: no user of the control or of the treatment has asked yet.
    """
    outcomes = read_outcomes(events, config.event, version)
    users = outcomes.users()
    compared = (config.control, config.treatment)
    if nobody := [arm for arm in compared if not users.get(arm)]:
        raise UserError(
            f"the log holds no request of a user who was assigned to the {nobody[0]} arm; ask by user_id and without "
            "arm, with serving.log=true, or name other arms (experiment.control, experiment.treatment)"
        )
    known = {arm: _measure(outcomes.of(arm), config) for arm in compared}
    times = {arm: _time(outcomes.of(arm), seed) for seed, arm in enumerate(compared)}
    differences = {name: known[config.treatment][name] - known[config.control][name] for name in MEASURES}
    margins = {
        "click_through": config.margin,
        "errors": config.error_margin,
        "fallbacks": config.fallback_margin,
        "coverage": config.coverage_margin,
    }
    guardrails = [
        Guardrail(name, _loss(_confide(mean, name, config), higher=MEASURES[name]), margins[name])
        for name, mean in differences.items()
    ]
    p = compare_with_split(users, split)
    verdict = decide(guardrails, p)
    slower = None
    if (ours := times[config.treatment]) is not None and (theirs := times[config.control]) is not None:
        slower = _tell_percentiles(ours - theirs)
    return {
        "verdict": verdict.word,
        "reason": verdict.reason,
        "config": to_dict(config),
        "split": dict(split),
        "p": p,
        "users": users,
        "moved": outcomes.moved,
        "left_out": outcomes.left_out,
        "from": _tell_time(outcomes.requests["time"].min()),
        "to": _tell_time(outcomes.requests["time"].max()),
        "arms": {
            arm: {
                "users": users[arm],
                "requests": len(requests),
                "answers": int(requests["answered"].sum()),
                "clicked": int((requests["clicked"] & requests["answered"]).sum()),
                **{name: _tell(_confide(mean, name, config), shares=True) for name, mean in known[arm].items()},
                "milliseconds": None if (time := times[arm]) is None else _tell_percentiles(time),
            }
            for arm in compared
            for requests in (outcomes.of(arm),)
        },
        "differences": {
            **{
                rail.name: {
                    **_tell(_confide(differences[rail.name], rail.name, config)),
                    "margin": rail.margin,
                    "state": rail.state,
                }
                for rail in guardrails
            },
            "milliseconds": slower,
        },
    }


def _measure(requests: pd.DataFrame, config: ExperimentConfig) -> dict[str, Mean]:
    failed = requests.assign(failed=~requests["answered"])
    return {
        "click_through": estimate_share(*sum_by_user(requests, "clicked", "answered")),
        "errors": estimate_share(*sum_by_user(failed, "failed")),
        "fallbacks": estimate_share(*sum_by_user(requests, "fallback", "answered")),
        "coverage": estimate_mean(measure_coverage(requests, config.coverage_users)),
    }


def _confide(mean: Mean, name: str, config: ExperimentConfig) -> Interval:
    # What is observed of the coverage are blocks of users.
    planned = max(1, config.planned // config.coverage_users) if name == "coverage" else config.planned
    return confide(mean, planned=planned, confidence=config.confidence)


def _loss(difference: Interval, *, higher: bool) -> Interval:
    return Interval(-difference.value, -difference.high, -difference.low) if higher else difference


def _time(requests: pd.DataFrame, seed: int) -> Percentiles | None:
    """Percentiles of an arm; with a seed of its own, so that what is drawn of two arms is independent."""
    answered = requests[requests["answered"]]
    if answered.empty:
        return None
    users = pd.factorize(answered["user"])[0]
    return bootstrap_percentiles(answered["milliseconds"].to_numpy(), users, LEVELS, seed=seed)


def _tell(interval: Interval, *, shares: bool = False) -> dict[str, float | None]:
    told = {name: _finite(getattr(interval, name)) for name in ("value", "low", "high")}
    if shares:  # of what is between 0 and 1
        told = {name: None if value is None else min(max(value, 0.0), 1.0) for name, value in told.items()}
    return told


def _tell_percentiles(percentiles: Percentiles) -> dict[str, dict[str, float]]:
    return {
        f"p{level:g}": {"value": float(value), "low": float(low), "high": float(high)}
        for level, value, (low, high) in zip(LEVELS, percentiles.values, percentiles.interval(), strict=True)
    }


def _tell_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
