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
    """score(j | h) = log p_student(j | h) + w1 · log share(j | h) + w2 · cosine(title of j, titles of h).

    The student's logarithm of a probability is its softmax over the catalogue, the share and the cosine are those of
    `SequentialRules`. All three are tables and a small net: no language model is needed.
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
        cls, student: SequentialRecommender, rules: SequentialRules, *, rules_weight: float, title_weight: float
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
        return scores

    def terms(self, histories: Histories, vectors: Tensor, titles: Tensor) -> list[Tensor]:
        """The three terms without their weights, [B, N+1] each; two where there are no titles.

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

    Every pair of the tuning's `student_rules` and `student_titles` is tried.

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
    pairs = [(0.0, 0.0)]
    pairs += [pair for pair in product(tuning.student_rules, with_titles) if pair != (0.0, 0.0)]
    probe = Hybrid.of(source.model, memory, rules_weight=1.0, title_weight=float(with_titles != (0.0,)))
    vectors = probe.student.item_vectors().detach()
    terms = partial(probe.terms, vectors=vectors, titles=probe.rules.titles)
    weights = pairs if probe.rules.config.title_width else [(a,) for a, _ in pairs]
    reached = weighted_gains(terms, dataset, rows, weights)
    best = max(range(len(reached)), key=reached.__getitem__)
    rules_weight, title_weight = pairs[best]
    tried = [{"rules_weight": a, "title_weight": b, "valid": gain} for (a, b), gain in zip(pairs, reached, strict=True)]
    return Made(
        Hybrid.of(source.model, memory, rules_weight=rules_weight, title_weight=title_weight),
        f"rules {rules_weight:g}, titles {title_weight:g}: NDCG@10 on validation {reached[best]:.4f}, the student "
        f"alone {reached[0]:.4f}",
        {"rules_weight": rules_weight, "title_weight": title_weight, "valid": reached[best]},
        {"valid": {"ndcg@10": reached[best], "alone": reached[0]}, "weights": tried},
    )
