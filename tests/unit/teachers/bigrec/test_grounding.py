import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel

from recsys.teachers.bigrec.grounding import embed, nearest


def test_nearest_equals_a_naive_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, items = torch.randn(9, 5, generator=generator), torch.randn(41, 5, generator=generator)
    queries[0] = items[7]
    excluded = torch.tensor([0, 0, 3, 8]), torch.tensor([9, 40, 1, 12])
    for chunk in (1, 3, 40, 100):
        found, distances = nearest(queries, items, 6, excluded=excluded, chunk=chunk)
        for row, query in enumerate(queries):
            barred = set(excluded[1][excluded[0] == row].tolist())
            pairs = sorted((float((query - items[item]).norm()), item) for item in range(1, 41) if item not in barred)[
                :6
            ]
            assert found[row].tolist() == [item for _, item in pairs]
            np.testing.assert_allclose(distances[row], [distance for distance, _ in pairs], rtol=1e-6)
    assert distances[0, 0] == 0


def test_weights_bend_the_order() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, items = torch.randn(4, 5, generator=generator), torch.randn(41, 5, generator=generator)
    weights = torch.rand(41, generator=generator) + 0.1
    for chunk in (7, 100):
        found, distances = nearest(queries, items, 6, weights=weights, chunk=chunk)
        for row, query in enumerate(queries):
            distance = (items - query).norm(dim=1)
            low, high = distance[1:].min(), distance[1:].max()
            key = weights * (distance - low) / (high - low)  # as BIGRec's code scales a row
            assert found[row].tolist() == (key[1:].argsort()[:6] + 1).tolist()
            torch.testing.assert_close(distances[row], distance[found[row]])


def test_embeddings_equal_those_of_each_text_alone() -> None:
    torch.manual_seed(0)
    model = LlamaModel(
        LlamaConfig(
            vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            bos_token_id=None, eos_token_id=None,
        )
    ).eval()  # fmt: skip
    texts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [3, 2, 1]]
    for pooling in ("last", "mean"):
        together = embed(model, texts, pooling)
        for vector, text in zip(together, texts, strict=True):
            with torch.inference_mode():
                hidden = model(input_ids=torch.tensor([text])).last_hidden_state[0]
            alone = hidden[-1] if pooling == "last" else hidden.mean(dim=0)
            torch.testing.assert_close(vector, alone, atol=1e-5, rtol=1e-5)
