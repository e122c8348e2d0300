"""What users of an experiment did, from the log of events: by intention to treat.

Only requests whose arm the user's id decided take part, and of those the ones since the last change of the split or
salt: a user whom it moved has seen both arms. A user belongs to the arm of the first of them, whichever arm
answered later (shares of the split may have moved); ids that mean the same user (`recsys.data.ids`) are one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys.data.ids import normal_ids

ANSWERED, FAILED, FEEDBACK = "exposure", "failure", "feedback"
_COLUMNS = [
    "kind", "time", "request_id", "user_id", "arm", "assigned_by", "experiment", "failed", "teacher_failed", "fallback",
    "items", "model_ms", "queue_ms",
]  # fmt: skip


@dataclass(frozen=True)
class Outcomes:
    """Requests in the order of their time.

    Attributes:
        requests: one row each: `user`, `arm` (that of the user's first request), `time`, `answered`, `clicked`,
            `fallback` (bool, the arm's model did not answer: popular items, or another arm in its place),
            `milliseconds` in the replica that answered (queue and model) and `items`.
        left_out: requests that named their arm, or no user, or came before the last change.
        moved: users whom more than one arm answered.
    """

    requests: pd.DataFrame
    left_out: int
    moved: int

    def of(self, arm: str) -> pd.DataFrame:
        return self.requests[self.requests["arm"] == arm]

    def users(self) -> Mapping[str, int]:
        """Arm → users."""
        firsts = self.requests.drop_duplicates("user")
        return {str(arm): int(count) for arm, count in firsts["arm"].value_counts().sort_index().items()}


def read_outcomes(events: pa.Table, event: str = "click", version: int = 1) -> Outcomes:
    """
    Args:
        events: of `recsys.serving.events.read_events`.
        event: what counts as a click.
        version: of the state of the experiment (`recsys.serving.experiment`).
    """
    table = events.select(_COLUMNS).to_pandas()
    asked = table[table["kind"].isin((ANSWERED, FAILED))].sort_values("time", kind="stable")
    asked = asked.drop_duplicates("request_id")  # a client may send one twice
    asked = asked.assign(user=normal_ids(pa.array(asked["user_id"], pa.string())).to_pandas().to_numpy())
    ours = asked[(asked["assigned_by"] == "user") & (asked["user"] != "") & (asked["experiment"] == version)]
    first = ours.drop_duplicates("user").set_index("user")["arm"]
    requests = pd.DataFrame(
        {
            "request_id": ours["request_id"],
            "user": ours["user"],
            "arm": ours["user"].map(first),
            "time": ours["time"],
            "answered": ours["kind"] == ANSWERED,
            "clicked": ours["request_id"].isin(_clicked(events, ours, event)),
            "fallback": ours["fallback"].fillna(False).astype(bool)
            | ours[["failed", "teacher_failed"]].notna().any(axis=1),
            "milliseconds": ours["model_ms"].fillna(0) + ours["queue_ms"].fillna(0),
            "items": ours["items"],
        }
    )
    moved = int((ours.groupby("user")["arm"].nunique() > 1).sum())
    return Outcomes(requests.reset_index(drop=True), len(asked) - len(ours), moved)


def _clicked(events: pa.Table, ours: pd.DataFrame, event: str) -> set[str]:
    """Requests with an event on an item that they showed."""
    said = events.select(["kind", "request_id", "item_id", "event"]).to_pandas()
    said = said[(said["kind"] == FEEDBACK) & (said["event"] == event)]
    shown = ours.loc[ours["kind"] == ANSWERED, ["request_id", "items"]]
    shown = shown[shown["request_id"].isin(said["request_id"])].explode("items")
    pairs = set(zip(shown["request_id"], shown["items"], strict=True))
    return {
        request for request, item in zip(said["request_id"], said["item_id"], strict=True) if (request, item) in pairs
    }


def sum_by_user(requests: pd.DataFrame, column: str, among: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """[U] how many of a user's requests have `column`, and how many there are (with `among`)."""
    trials = np.ones(len(requests)) if among is None else requests[among].to_numpy(float)
    users, count = pd.factorize(requests["user"])
    hits = requests[column].to_numpy(float) * trials
    return np.bincount(users, hits, len(count)), np.bincount(users, trials, len(count))


def measure_coverage(requests: pd.DataFrame, users: int) -> np.ndarray:
    """The share of different items among all that blocks of `users` users were shown first, in the order of their
    coming: [blocks], independent where users are; the last block is left out where it is not whole."""
    firsts = requests.loc[requests["answered"]].drop_duplicates("user")["items"].tolist()
    blocks = (firsts[begin : begin + users] for begin in range(0, len(firsts) - users + 1, users))
    shown = ([item for items in block for item in items] for block in blocks)
    return np.array([len(set(items)) / len(items) for items in shown if items])
