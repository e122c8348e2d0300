"""Rankings of a teacher for any rows of a dataset, by one causal forward pass over each window of a sequence.

A causal model scores every position of a window at once. Training rows share windows of the longest history L that
start every L/2 items: a row is scored in the earliest window that holds it, so the first window scores all its
positions and each later one its last half, and every row sees at least L/2 items wherever the user has as many.
Validation and test rows see exactly their latest L items. The pass thus costs about two windows for every L
interactions instead of one for every row.

Legend: S rows, B windows in a batch, L history, P positions to be scored, N items, K candidates, D width.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.inference.engine import TeacherEngine
from recsys.model import CausalRecommender
from recsys.signals.config import SignalsConfig
from recsys.signals.rankings import Rankings, finite_only

_ITEMS = 65536  # scored at a time


class WindowPass:
    """The pass of a causal teacher that scores by dot products (`recsys.teacher.TeacherPass`)."""

    def __init__(self, model: CausalRecommender, config: SignalsConfig, device: str | torch.device) -> None:
        self._config = config
        self._engine = TeacherEngine(
            model,
            config.dtype,
            device,
            tensor_parallel=config.tensor_parallel,
            kernel_injection=config.kernel_injection,
        )

    def rank(self, dataset: PreparedDataset, rows: np.ndarray) -> Rankings:
        config = self._config
        return rank_rows(
            self._engine,
            dataset,
            rows,
            k=config.k,
            mask_history=config.mask_history,
            log_mass=config.log_mass,
            batch_size=config.batch_size,
        )

    def states(self, dataset: PreparedDataset, rows: np.ndarray, layers: Sequence[int], dtype: torch.dtype) -> Tensor:
        """[S, B, H]: the states from which each of `rows` (ascending) is predicted, after each of B layers.

        They are those of the windows that `rank` reads.
        """
        found: list[Tensor] = []
        places: list[np.ndarray] = []
        for which, histories, window, position in _batches(dataset, rows, self._config.batch_size):
            found.append(self._engine.states(histories, layers).cpu()[window, position].to(dtype))
            places.append(which)
        return torch.cat(found)[torch.from_numpy(np.argsort(np.concatenate(places)))]


def window_starts(dataset: PreparedDataset, rows: np.ndarray) -> np.ndarray:
    """For each row the offset of the first item of the window that scores it, [S] int64."""
    limit = dataset.max_history
    stride = max(1, limit // 2)
    first = dataset.offsets[dataset.users_of(rows)]
    beyond = np.maximum(rows - first - limit, 0)  # items of the past that do not fit the user's first window
    shared = -(-beyond // stride) * stride
    latest = np.isin(rows, dataset.rows("valid")) | np.isin(rows, dataset.rows("test"))
    return first + np.where(latest, beyond, shared)


def rank_rows(
    engine: TeacherEngine,
    dataset: PreparedDataset,
    rows: np.ndarray,
    *,
    k: int,
    mask_history: bool,
    log_mass: bool = False,
    batch_size: int = 64,
) -> Rankings:
    """Rank the catalogue for each row. Memory is in proportion to batch_size · (K + L · D) and at most 65,536 scores
    a row of the batch, whatever the rows.

    Args:
        rows: [S] offsets of targets, ascending, of any splits.
        k: K; see `check_k`.
        mask_history: leave out every item of the user's past, not only of the window.
        log_mass: see `Rankings`.

    Returns:
        Those of the rows that have finite predictions.
    """
    rank_of = np.empty(len(rows), dtype=np.int64)
    parts = []
    done = tokens = 0
    for which, histories, window, position in _batches(dataset, rows, batch_size):
        hidden_PD = engine.hidden(histories)[window.to(engine.device), position.to(engine.device)]
        rank_of[which] = np.arange(done, done + len(which))
        done += len(which)
        tokens += int(histories.lengths.sum())
        for begin in range(0, len(which), batch_size):
            chunk = rows[which[begin : begin + batch_size]]
            parts.append(
                _rank(engine, dataset, chunk, hidden_PD[begin : begin + batch_size], k, mask_history, log_mass)
            )
    items_SK, scores_SK, distance_S, *outside = (
        torch.cat(part).cpu().numpy()[rank_of] for part in zip(*parts, strict=True)
    )
    rankings = Rankings(
        rows=rows,
        items=items_SK.astype(np.int32),
        scores=scores_SK,
        target_distance=distance_S.astype(np.float32),
        log_mass=outside[0] if log_mass else None,
        tokens=tokens,
    )
    return finite_only(rankings)


def check_k(dataset: PreparedDataset, rows: np.ndarray, k: int, mask_history: bool) -> None:
    """Raise a `UserError` where a row has fewer than K candidates."""
    longest = int((rows - dataset.offsets[dataset.users_of(rows)]).max()) if mask_history and len(rows) else 0
    if k > dataset.num_items - longest:
        past = f" minus the longest past of {longest}" if longest else ""
        raise UserError(f"signals.k is {k}, but there are {dataset.num_items} items{past} to rank; lower signals.k")


def _batches(
    dataset: PreparedDataset, rows: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, Histories, Tensor, Tensor]]:
    """Windows of similar length together.

    Yields:
        which: [P] indices into `rows`; histories; window, position: [P] where each row's prediction is.
    """
    starts, window_of = np.unique(window_starts(dataset, rows), return_inverse=True)
    last = np.zeros(len(starts), dtype=np.int64)
    np.maximum.at(last, window_of, rows)
    length = last - starts
    by_window = np.argsort(window_of, kind="stable")
    bounds = np.searchsorted(window_of[by_window], np.arange(len(starts) + 1))
    order = np.argsort(length, kind="stable")
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        columns = np.arange(length[chosen].max())
        inside = columns < length[chosen, None]
        index = np.where(inside, starts[chosen, None] + columns, 0)
        items, times = (np.where(inside, values[index], 0) for values in (dataset.items, dataset.timestamps))
        histories = Histories(*map(torch.from_numpy, (items.astype(np.int64), length[chosen], times)))
        which = np.concatenate([by_window[bounds[w] : bounds[w + 1]] for w in chosen])
        window = np.repeat(np.arange(len(chosen)), bounds[chosen + 1] - bounds[chosen])
        position = rows[which] - 1 - starts[chosen][window]
        yield which, histories, torch.from_numpy(window), torch.from_numpy(position)


@torch.inference_mode()
def _rank(
    engine: TeacherEngine,
    dataset: PreparedDataset,
    rows: np.ndarray,
    hidden_PD: Tensor,
    k: int,
    mask_history: bool,
    log_mass: bool,
) -> list[Tensor]:
    excluded = None
    if mask_history:
        which, seen = dataset.past(rows)
        excluded = torch.from_numpy(which).to(engine.device), torch.from_numpy(seen).to(engine.device)
    best, values, *outside = top_items(hidden_PD, engine.vectors, k, excluded=excluded, log_mass=log_mass)
    targets = engine.vectors[torch.from_numpy(dataset.targets(rows).astype(np.int64)).to(engine.vectors.device)]
    normalised = functional.normalize(targets.to(engine.device), dim=1)
    distance = (functional.normalize(hidden_PD, dim=1) - normalised).norm(dim=1)
    return [best, values, distance, *outside]


def top_items(
    hidden_PD: Tensor,
    vectors: Tensor,
    k: int,
    *,
    excluded: tuple[Tensor, Tensor] | None = None,
    log_mass: bool = False,
    chunk: int = _ITEMS,
) -> list[Tensor]:
    """The K items with the largest dot products and these, [P, K] each, largest first; with `log_mass` also the
    logarithm of the softmax mass of all others, [P].

    Memory: P · (chunk + K) scores, whatever the catalogue. The vectors are taken to the device of `hidden_PD` chunk by
    chunk where they are elsewhere, so they may lie in memory that is mapped from a file.

    Args:
        vectors: [N+1, D]; row 0 is left out.
        excluded: pairs (rows, items) that must not be returned, and have no mass.
    """
    rests: list[Tensor] | None = [] if log_mass else None
    values, found = best(_products(hidden_PD, vectors, excluded, chunk), k, rests=rests)
    if rests is None:
        return [found, values]
    rest = torch.stack(rests).logsumexp(dim=0)
    return [found, values, rest - torch.logaddexp(rest, values.logsumexp(dim=1))]


def _products(
    hidden_PD: Tensor, vectors: Tensor, excluded: tuple[Tensor, Tensor] | None, chunk: int
) -> Iterator[tuple[int, Tensor]]:
    for begin in range(0, len(vectors), chunk):
        scores = hidden_PD @ vectors[begin : begin + chunk].to(hidden_PD.device).T
        if begin == 0:
            scores[:, 0] = -torch.inf
        exclude(scores, excluded, begin, -torch.inf)
        yield begin, scores


def exclude(scores: Tensor, excluded: tuple[Tensor, Tensor] | None, begin: int, value: float) -> None:
    """Give pairs (rows, items) a value among the scores [P, …] of the items from `begin` on."""
    if excluded is not None:
        which, items = excluded
        inside = (items >= begin) & (items < begin + scores.shape[1])
        scores[which[inside], items[inside] - begin] = value


def best(
    parts: Iterable[tuple[int, Tensor]], k: int, *, largest: bool = True, rests: list[Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The K best values and their items, [P, K] each, best first, of scores that come part by part.

    Args:
        parts: first item and scores [P, …] of each part; with `rests` they are written into.
        rests: gets logarithms of softmax masses [P] that add up to those of all items that are left out.
    """
    values = items = torch.empty(0)
    for number, (begin, scores) in enumerate(parts):
        new, found = scores.topk(min(k, scores.shape[1]), dim=1, largest=largest)
        if rests is not None:
            rests.append(scores.scatter_(1, found, -torch.inf).logsumexp(dim=1))
        found = found + begin
        if number:
            new, order = torch.cat([values, new], dim=1).sort(dim=1, descending=largest, stable=True)
            found = torch.cat([items, found], dim=1).gather(1, order)
            if rests is not None:
                rests.append(new[:, k:].logsumexp(dim=1))
        values, items = new[:, :k], found[:, :k]
    return values, items
