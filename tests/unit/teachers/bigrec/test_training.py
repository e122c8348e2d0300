"""Batches of prompts: every row once an epoch, each in the words of one process or of several."""

import numpy as np
import pytest

from recsys.teachers.bigrec.training import PromptBatches


@pytest.mark.parametrize("on_inputs", [False, True])
def test_an_epoch_is_every_row_once_and_labels_are_what_is_written(objective, dataset, on_inputs: bool) -> None:
    prompts, rows = objective(dataset).model.prompts, dataset.rows("train")
    batches = PromptBatches(dataset, prompts, rows, on_inputs=on_inputs, batch_size=7, seed=0)
    expected = []
    for row in rows.tolist():
        shown = slice(max(row - dataset.max_history, int(dataset.offsets[dataset.users_of(np.array([row]))[0]])), row)
        history = prompts.history(dataset.items[shown].tolist(), dataset.timestamps[shown].tolist())
        response = prompts.response(int(dataset.items[row]))
        labels = history[1:] + response if on_inputs else response
        expected.append((tuple(history + response), tuple(labels)))
    seen = []
    for batch, total in batches.epoch(0):
        assert total == int((batch["labels"] != -100).sum())
        for tokens, inside, labels in zip(batch["tokens"], batch["inside"], batch["labels"], strict=True):
            width = int(inside.sum())
            assert inside.tolist() == [0] * (len(inside) - width) + [1] * width, "padding is on the left"
            seen.append((tuple(tokens[-width:].tolist()), tuple(labels[labels != -100].tolist())))
    assert sorted(seen) == sorted(expected)


def test_processes_share_the_batches_of_one_and_none_is_without_a_row(objective, dataset) -> None:
    prompts, rows = objective(dataset).model.prompts, dataset.rows("train")[:22]

    def read(rank: int, world: int) -> list[tuple[list[list[int]], int]]:
        batches = PromptBatches(dataset, prompts, rows, on_inputs=False, batch_size=7, seed=3, rank=rank, world=world)
        return [
            ([t[i.bool()].tolist() for t, i in zip(b["tokens"], b["inside"], strict=True)], total)
            for b, total in batches.epoch(1)
        ]

    alone = read(0, 1)
    assert sorted(len(tokens) for tokens, _ in alone) == [1, 7, 7, 7]
    shares = [read(rank, 2) for rank in range(2)]
    whole = [(tokens, total) for tokens, total in alone if len(tokens) > 1]
    assert [total for _, total in shares[0]] == [total for _, total in shares[1]] == [total for _, total in whole]
    for (tokens, _), (one, _), (two, _) in zip(whole, *shares, strict=True):
        assert tokens[::2] == one and tokens[1::2] == two
    assert read(0, 1) == alone
