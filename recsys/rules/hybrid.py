"""A student with the sequential rules, and the titles, as further terms of the served score.

Legend: B batch, L history, N items, D width of the student's item vectors, W of the title vectors.
"""

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from recsys.checkpoint import Checkpoint
from recsys.config import from_dict, to_dict
from recsys.data.prepared import Catalogue, PreparedDataset
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.model import Made, SequentialRecommender, model_class
from recsys.rules.config import HybridConfig, HybridModelConfig, RulesTuningConfig
from recsys.rules.model import SequentialRules
from recsys.rules.weights import weighted_gains


class Hybrid(SequentialRecommender):
    """score(j | h) = log p_student(j | h) + w1 · log share(j | h) + w2 · cosine(titles of j and h) + w3 · [j in h].

    The student's logarithm of a probability is its softmax over the catalogue, the share and the cosine are those of
    `SequentialRules`. All of it is tables and a small net: no language model is needed.
    """

    kind = "hybrid"
    Config = HybridModelConfig
    config: HybridModelConfig

    def __init__(self, config: HybridModelConfig, *, num_items: int) -> None:
        super().__init__(config, num_items=num_items)
        cls = model_class(config.student["kind"])
        self.student = cls(from_dict(cls.Config, config.student["model"]), num_items=num_items)
        self.rules = SequentialRules(config.rules, num_items=num_items)
        self.uses_times = self.student.uses_times

    @classmethod
    def of(
        cls,
        student: SequentialRecommender,
        rules: SequentialRules,
        *,
        rules_weight: float,
        title_weight: float,
        repeat_weight: float = 0.0,
    ) -> "Hybrid":
        """From a trained student and fitted rules; where the weight of the titles is 0, without their vectors.

        Raises:
            UserError: the student is compressed or a hybrid itself.
        """
        if "compression" in student.layout() or isinstance(student, Hybrid | SequentialRules):
            raise UserError(
                f"a hybrid is made of a trained student that is not compressed, not of one of kind {student.kind} "
                "such as this; name the student that it was made from"
            )
        width = rules.config.title_width if title_weight else 0
        # The constants of the rules alone: their own weight of titles has no say here.
        own = replace(rules.config, title_width=width, title_weight=0.0)
        config = HybridModelConfig(
            student={"kind": student.kind, "model": to_dict(student.config)},
            rules=own,
            rules_weight=rules_weight,
            title_weight=title_weight,
            repeat_weight=repeat_weight,
        )
        model = cls(config, num_items=student.num_items)
        model.student, model.rules = student, SequentialRules(own, num_items=student.num_items)
        model.rules.load_state_dict({**rules.state_dict(), "titles": rules.titles[:, :width]})
        return model.eval()

    def item_vectors(self) -> Tensor:
        """[N+1, D + W]: the student's beside the titles'."""
        vectors = self.student.item_vectors()
        return torch.cat([vectors, self.rules.titles.to(vectors)], dim=1)

    def scores(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        vectors = self.item_vectors() if vectors is None else vectors
        width = vectors.shape[1] - self.rules.titles.shape[1]
        scores, *others = self.terms(histories, vectors[:, :width], vectors[:, width:])
        for weight, term in zip((self.config.rules_weight, self.config.title_weight), others, strict=False):
            scores.add_(term, alpha=weight)
        if self.config.repeat_weight:
            items = histories.items
            scores.scatter_(1, items, scores.gather(1, items) + self.config.repeat_weight)  # twice in it: once added
        return scores

    def terms(self, histories: Histories, vectors: Tensor, titles: Tensor) -> list[Tensor]:
        """The first three terms without their weights, [B, N+1] each; two where there are no titles.

        Args:
            vectors: of the student's items; titles: the rules' vectors of titles.
        """
        scores = self.student.scores(histories, vectors)
        scores = scores - scores[:, 1:].logsumexp(dim=1, keepdim=True)
        terms = [scores, self.rules.log_share(histories)]
        if titles.shape[1]:
            terms.append(self.rules.query(histories, titles) @ titles.T)
        return terms

    def save_files(self, directory: Path) -> None:
        self.student.save_files(directory)

    def load_files(self, directory: Path, catalogue: Catalogue) -> None:
        self.student.load_files(directory, catalogue)


def make_hybrid(
    config: HybridConfig,
    source: Checkpoint,
    dataset: PreparedDataset,
    *,
    rules: Checkpoint,
    tuning: RulesTuningConfig,
) -> Made:
    """The hybrid of a student and rules whose weights are best on the validation rows.

    Every combination of the tuning's `student_rules`, `student_titles` and `student_repeats` is tried.

    Raises:
        UserError: student or rules are of another dataset or kind, or there are no validation rows to choose by.
    """
    for checkpoint, what in ((source, "the student of a hybrid"), (rules, "the rules of a hybrid")):
        checkpoint.check_dataset(dataset, what, "make it again on this dataset")
    rows = dataset.sample("valid", tuning.rows, seed=0)
    if not len(rows):
        raise UserError("a hybrid's weights are chosen on validation rows, and there are none; use another split")
    memory = rules.model
    assert isinstance(memory, SequentialRules)
    with_titles = tuning.student_titles if config.titles and memory.config.title_width else (0.0,)
    repeats = (0.0,) if config.mask_seen else tuning.student_repeats
    probe = Hybrid.of(source.model, memory, rules_weight=1.0, title_weight=float(with_titles != (0.0,)))
    terms = partial(_list_terms, probe, vectors=probe.student.item_vectors().detach(), repeats=repeats != (0.0,))
    alone = (0.0, 0.0, 0.0)
    candidates = [alone, *(each for each in product(tuning.student_rules, with_titles, repeats) if each != alone)]
    shown = [0, *([1] if probe.rules.config.title_width else []), *([2] if repeats != (0.0,) else [])]
    weights = [[each[column] for column in shown] for each in candidates]
    reached = weighted_gains(terms, dataset, rows, weights, mask_seen=config.mask_seen)
    tried = [
        {"rules_weight": a, "title_weight": b, "repeat_weight": c, "valid": gain}
        for (a, b, c), gain in zip(candidates, reached, strict=True)
    ]
    best = max(tried, key=lambda each: each["valid"])
    return Made(
        Hybrid.of(source.model, memory, **{name: weight for name, weight in best.items() if name != "valid"}),
        f"rules {best['rules_weight']:g}, titles {best['title_weight']:g}, repeats {best['repeat_weight']:g}: NDCG@10 "
        f"on validation {best['valid']:.4f}, the student alone {reached[0]:.4f}",
        best,
        {"valid": {"ndcg@10": best["valid"], "alone": reached[0]}, "weights": tried},
    )


def _list_terms(hybrid: Hybrid, histories: Histories, *, vectors: Tensor, repeats: bool) -> list[Tensor]:
    """The terms of `Hybrid.terms`, and with `repeats` the one that is 1 for an item of the history."""
    terms = hybrid.terms(histories, vectors, hybrid.rules.titles)
    return [*terms, torch.zeros_like(terms[0]).scatter_(1, histories.items, 1.0)] if repeats else terms
