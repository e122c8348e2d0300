"""Every kind of recommender offers the same, and says nothing that it cannot do."""

import inspect

import pytest

from recsys.errors import UserError
from recsys.kinds import KINDS
from recsys.model import CausalRecommender, SequentialRecommender, model_class
from recsys.teacher import Teacher

RECOMMENDERS = sorted(KINDS.keys() - {"slmrec", "compressed"})  # which are of their teacher's kind
METHODS = ("hidden", "scores", "item_vectors", "ready", "text_embeddings", "item_embeddings")


@pytest.mark.parametrize("kind", RECOMMENDERS)
def test_a_kind_takes_what_the_interface_declares(kind: str) -> None:
    found = model_class(kind)
    declared = {name: member for base in (CausalRecommender, Teacher) for name, member in vars(base).items()}
    for name in METHODS:
        if (method := getattr(found, name, None)) is not None:
            interface = declared.get(name) or getattr(SequentialRecommender, name)
            assert list(inspect.signature(method).parameters) == list(inspect.signature(interface).parameters), name


@pytest.mark.parametrize("kind", RECOMMENDERS)
def test_causal_ones_alone_have_hidden_states(kind: str) -> None:
    found = model_class(kind)
    assert found.kind == kind and issubclass(found, SequentialRecommender)
    assert (
        hasattr(found, "hidden")
        == issubclass(found, CausalRecommender)
        == (kind not in {"bigrec", "sequential-rules", "hybrid"})
    )


@pytest.mark.parametrize("kind", ["unheard-of", "slmrec"])
def test_a_kind_without_a_recommender_is_told(kind: str) -> None:
    with pytest.raises(UserError, match=f"unknown model kind '{kind}'; known: {', '.join(RECOMMENDERS)}"):
        model_class(kind)
