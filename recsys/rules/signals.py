"""The rules as a teacher: signals in which no training row was ranked by rules that its own user is counted in.

Legend: R rows, S all rows, N items, K candidates, D width.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from recsys.checkpoint import Checkpoint
from recsys.config import to_dict
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.inference.ranking import check_k
from recsys.rules.config import RulesConfig
from recsys.rules.counts import Counts, WithoutUser, history_weights
from recsys.rules.model import SequentialRules, log_share
from recsys.signals.config import SignalsConfig
from recsys.signals.rankings import Rankings
from recsys.signals.signals import SignalsMeta
from recsys.signals.writer import ShardPlan, SignalsWriter

_CELLS_AT_ONCE = 1 << 23  # scores in memory, some times over
_SHARD = 8192
WIDTH = 64


class RulesTeacher:
    """Ranks rows of a dataset by fitted rules: training rows with their own user left out, others as they are served.

    The rules are counted anew from the constants of the model, all of them: a cut to the strongest cannot be undone.
    """

    def __init__(self, model: SequentialRules, dataset: PreparedDataset) -> None:
        self._model, self._dataset = model, dataset
        config = replace(model.config, successors=None)
        self._without = WithoutUser(dataset, config)
        self._training = np.zeros(len(dataset.items), dtype=bool)
        self._training[dataset.rows("train")] = True
        self._rules = Counts.fit(dataset, config).rules()

    def scores(self, rows: np.ndarray) -> Tensor:
        """[R, N+1] float32 as of `SequentialRules.scores`; rows are ascending."""
        counts = np.empty((len(rows), self._dataset.num_items + 1))
        training = self._training[rows]
        weights = history_weights(self._dataset, rows, self._model.config.decay)
        if training.any():
            counts[training] = self._without.scores(rows[training])
        if not training.all():
            counts[~training] = sparse.csr_array(weights[~training] @ self._rules).toarray()
        config = self._model.config
        scores = log_share(torch.from_numpy(counts).float(), self._model.floor, config.spread)
        if config.title_weight and config.title_width:
            titles = self._model.titles
            mean = torch.from_numpy((weights @ titles.numpy()).astype(np.float32))
            scores.addmm_(F.normalize(mean, dim=1) * config.title_weight, titles.T)
        return scores

    def rank(self, rows: np.ndarray, k: int, *, mask_history: bool, log_mass: bool) -> Rankings:
        """The K best of each row ([R] ascending); the distance of a target is −log of its softmax probability."""
        step = max(1, _CELLS_AT_ONCE // (self._dataset.num_items + 1))
        parts = [self._rank(rows[i : i + step], k, mask_history, log_mass) for i in range(0, len(rows), step)]
        items, values, distance, outside = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
        return Rankings(rows, items.astype(np.int32), values, distance, outside if log_mass else None)

    def _rank(self, rows: np.ndarray, k: int, mask_history: bool, log_mass: bool) -> tuple[Tensor, ...]:
        scores = self.scores(rows)
        scores[:, 0] = -torch.inf
        targets = torch.from_numpy(self._dataset.targets(rows).astype(np.int64))[:, None]
        of_target = scores.gather(1, targets)
        if mask_history:
            which, seen = (torch.from_numpy(each) for each in self._dataset.past(rows))
            scores[which, seen] = -torch.inf
            scores.scatter_(1, targets, of_target)  # for its distance, where it was met before
        whole = scores.logsumexp(dim=1)
        distance = whole - of_target[:, 0]
        if mask_history:
            scores[which, seen] = -torch.inf
            whole = scores.logsumexp(dim=1)
        values, items = scores.topk(k, dim=1)
        outside = scores.scatter_(1, items, -torch.inf).logsumexp(dim=1) - whole if log_mass else distance
        return items, values, distance, outside


def write_signals(
    uri: str,
    checkpoint: Checkpoint,
    dataset: PreparedDataset,
    config: SignalsConfig,
    *,
    key: str = "",
    chosen: np.ndarray | None = None,
    report: Callable[[str], None] = print,
) -> SignalsMeta:
    """Rank the rows that `config` asks for and write the signals; a killed pass goes on where it was.

    `item_embeddings` are the spectral vectors of the counts (`spectral_vectors`), `text_embeddings` the title vectors
    where the model has some.

    Args:
        chosen: [R] int64 ascending, the training rows to rank; None leaves them to `config.train_rows`.

    Raises:
        UserError: the model is of another dataset or kind, or K is larger than what can be ranked.
    """
    checkpoint.check_dataset(dataset, "this set of rules", "fit it again on this dataset")
    model = checkpoint.model
    if not isinstance(model, SequentialRules):
        raise UserError(f"{model.kind} is no model of sequential rules; its signals are made by infer_teacher")
    size = config.rows_per_shard or _SHARD
    plan = ShardPlan.of(dataset, config.splits, size, train_rows=config.train_rows, chosen=chosen)
    check_k(dataset, plan.rows, config.k, config.mask_history)
    writer = SignalsWriter(uri, key=key, k=config.k)
    teacher = RulesTeacher(model, dataset)
    for number in writer.missing(plan):
        started = time.perf_counter()
        ranked = teacher.rank(plan.shard(number), config.k, mask_history=config.mask_history, log_mass=config.log_mass)
        seconds = time.perf_counter() - started
        writer.write_shard(
            number,
            ranked.rows,
            ranked.items,
            ranked.scores,
            ranked.target_distance,
            seconds=seconds,
            log_mass=ranked.log_mass,
        )
        report(f"signals of {model.kind}: shard {number + 1} of {len(plan)}, {len(ranked.rows) / seconds:,.0f} rows/s")
    meta = SignalsMeta(
        teacher=model.kind,
        checkpoint_hash=checkpoint.hash,
        fingerprint=dataset.fingerprint,
        k=config.k,
        distance_meaning="-log p(target)",
        masked_history=config.mask_history,
        log_mass=config.log_mass,
        settings={
            "teacher": to_dict(model.config),
            "own_user": "left out of the counts for training rows",
            **config.choice,
        },
    )
    titles = model.titles if model.config.title_width else None
    splits = {split: plan.rows[np.isin(plan.rows, dataset.rows(split))] for split in config.splits}
    writer.finalise(plan, meta, spectral_vectors(dataset, model.config), titles, splits=splits)
    return meta


def spectral_vectors(dataset: PreparedDataset, config: RulesConfig, width: int = WIDTH) -> Tensor:
    """[N+1, D] float32: the leading eigenvectors of D^−½ (n + nᵀ) D^−½, each times the root of its eigenvalue's size.

    n are the counts without their direction and D its sums: items that occur near the same items have similar vectors.
    Row 0 and items that occur beside no other are zero. All users are counted in. D = min(width, N).
    """
    pairs = Counts.fit(dataset, replace(config, backward=1.0, successors=None)).pairs[1:, 1:]
    root = np.sqrt(np.asarray(pairs.sum(axis=1)).reshape(-1))
    scale = sparse.diags_array(np.divide(1, root, out=np.zeros_like(root), where=root > 0))
    matrix = sparse.csr_array(scale @ pairs @ scale)
    size = matrix.shape[0]
    width = min(width, size)
    if width >= size - 1 or size <= 512:
        values, vectors = np.linalg.eigh(matrix.toarray())
    else:
        from scipy.sparse.linalg import eigsh

        values, vectors = eigsh(matrix, k=width, which="LM", v0=np.ones(size))
    order = np.argsort(-np.abs(values), kind="stable")[:width]
    signs = np.sign(vectors[np.abs(vectors[:, order]).argmax(axis=0), order])  # eigenvectors have no sign of their own
    table = np.zeros((size + 1, width), dtype=np.float32)
    table[1:] = vectors[:, order] * np.where(signs == 0, 1, signs) * np.sqrt(np.abs(values[order]))
    return torch.from_numpy(table)
