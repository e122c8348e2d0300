import dataclasses

import numpy as np
import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.inference.ranking import window_starts
from recsys.training.windows import Windows, history_starts


def batches(dataset: PreparedDataset, epoch: int = 0, **options: int) -> list:
    arguments = {"max_history": dataset.max_history, "batch_size": 7, "seed": 3, **options}
    return list(Windows(dataset, **arguments).epoch(epoch))


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_training_row_is_learned_exactly_once(walks: PreparedDataset, epoch: int) -> None:
    rows = np.concatenate([b["rows"][b["rows"] >= 0].numpy() for b, _ in batches(walks, epoch)])
    assert sorted(rows) == walks.rows("train").tolist()


def test_inputs_and_targets_are_the_user_s_own_sequence(walks: PreparedDataset) -> None:
    for batch, _ in batches(walks):
        assert batch["items"].shape[1] <= walks.max_history
        for items, targets, rows in zip(batch["items"], batch["targets"], batch["rows"], strict=True):
            for position, row in enumerate(rows.tolist()):
                if row < 0:
                    assert targets[position] == 0
                    continue
                assert targets[position] == walks.items[row]
                assert items[: position + 1].tolist() == walks.items[row - position - 1 : row].tolist()
                user = walks.users_of(np.array([row]))[0]
                assert row - position - 1 >= walks.offsets[user]


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("given", [False, True])
def test_a_row_weighs_the_same_in_batches_of_long_and_short_windows(
    walks: PreparedDataset, world: int, given: bool
) -> None:
    starts = {"starts": window_starts(walks, walks.rows("train"))} if given else {}
    shares = [batches(walks, rank=rank, world=world, **starts) for rank in range(world)]
    learned = [sum(int((share[i][0]["rows"] >= 0).sum()) for share in shares) for i in range(len(shares[0]))]
    divisors = {total for share in shares for _, total in share}
    assert len(set(learned)) > 1, "batches differ"
    assert len(divisors) == 1 and divisors.pop() == pytest.approx(np.mean(learned))


def test_valid_and_test_items_are_never_inputs_or_targets(walks: PreparedDataset) -> None:
    held_out = {*walks.rows("valid").tolist(), *walks.rows("test").tolist()}
    first, last = Windows(walks, max_history=8, batch_size=7, seed=0).cut(4)
    for begin, end in zip(first, last, strict=True):
        assert not held_out & set(range(begin, end + 1))


def test_cuts_move_from_epoch_to_epoch_and_are_seeded(walks: PreparedDataset) -> None:
    windows = Windows(walks, max_history=8, batch_size=7, seed=0)
    assert np.array_equal(windows.cut(2)[0], Windows(walks, max_history=8, batch_size=3, seed=0).cut(2)[0])
    assert not np.array_equal(np.sort(windows.cut(2)[0]), np.sort(windows.cut(3)[0]))
    assert not np.array_equal(windows.cut(2)[0], Windows(walks, max_history=8, batch_size=7, seed=1).cut(2)[0])


def test_batches_come_in_another_order_in_each_epoch(walks: PreparedDataset) -> None:
    starts = window_starts(walks, walks.rows("train"))
    first, again, second = (batches(walks, epoch, starts=starts)[0][0]["rows"] for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert sorted(first.flatten().tolist()) != sorted(second.flatten().tolist())


def test_padding_has_no_item_no_target_and_no_time(walks: PreparedDataset) -> None:
    padded = 0
    for batch, _ in batches(dataclasses.replace(walks, timestamps=walks.timestamps + 1), times=True):
        padding = batch["items"] == 0
        padded += int(padding.sum())
        assert not batch["times"][padding].any() and not batch["targets"][padding].any()
        assert (batch["rows"][padding] == -1).all() and (batch["times"][~padding] > 0).all()
    assert padded


@pytest.mark.parametrize("one_a_user", [False, True])
def test_given_windows_stay(walks: PreparedDataset, one_a_user: bool) -> None:
    train_rows = walks.rows("train")
    starts = window_starts(walks, train_rows)
    options: dict = {"starts": starts, "one_a_user": one_a_user}
    found = {int(row) for b, _ in batches(walks, **options) for row in b["rows"][b["rows"] >= 0]}
    users = walks.users_of(train_rows)
    last = {int(train_rows[users == user].max()) for user in np.unique(users)}
    assert found == (last if one_a_user else set(train_rows.tolist()))
    overlapping = 0
    for epoch in (0, 4):
        for batch, _ in batches(walks, epoch, **options):
            overlapping += int(((batch["items"] > 0) & (batch["rows"] < 0)).sum())
            for items, rows in zip(batch["items"], batch["rows"], strict=True):
                for position in np.flatnonzero(rows >= 0):
                    row = int(rows[position])
                    start = int(starts[np.searchsorted(train_rows, row)])
                    assert items[: position + 1].tolist() == walks.items[start:row].tolist()
    assert overlapping, "no history was longer than a window"
    whole = dataclasses.replace(walks, max_history=len(walks.items))
    plain = batches(whole, one_a_user=one_a_user)
    given = batches(whole, one_a_user=one_a_user, starts=window_starts(whole, train_rows))
    for (ours, total), (theirs, expected) in zip(given, plain, strict=True):
        assert total == expected and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_batch(walks: PreparedDataset, world: int) -> None:
    whole = batches(walks)
    shares = [batches(walks, rank=rank, world=world) for rank in range(world)]
    kept = [b for b in whole if len(b[0]["items"]) >= world]
    assert {len(share) for share in shares} == {len(kept)}
    for number, (batch, _) in enumerate(kept):
        rows = np.concatenate([share[number][0]["rows"].numpy().ravel() for share in shares])
        assert sorted(rows[rows >= 0]) == sorted(batch["rows"][batch["rows"] >= 0].tolist())


def learned(dataset: PreparedDataset, histories: str, epoch: int = 0, **options: int) -> dict[int, list[int]]:
    """What of its past each training row is learned with."""
    arguments: dict = {"starts": history_starts(dataset, histories), "joined": histories != "prefixes", **options}
    found: dict[int, list[int]] = {}
    for batch, _ in batches(dataset, epoch, **arguments):
        places = (batch["rows"] >= 0).nonzero().tolist()
        for window, position in places:
            row = int(batch["rows"][window, position])
            assert row not in found, "learned twice in an epoch"
            assert batch["targets"][window, position] == dataset.items[row]
            found[row] = batch["items"][window, : position + 1].tolist()
    return found


@pytest.mark.parametrize("histories", ["exact", "prefixes"])
def test_rows_see_what_evaluation_would_show_them(walks: PreparedDataset, histories: str) -> None:
    rows = walks.rows("train")
    items, lengths = walks.histories(rows)
    for epoch in (0, 3):
        found = learned(walks, histories, epoch)
        assert sorted(found) == rows.tolist()
        for row, shown, length in zip(rows.tolist(), items, lengths, strict=True):
            user = int(walks.users_of(np.array([row]))[0])
            assert found[row] == shown[:length].tolist()
            assert found[row] == walks.items[max(walks.offsets[user], row - walks.max_history) : row].tolist()


def test_overlapping_windows_show_at_least_half_and_cost_at_most_twice(walks: PreparedDataset) -> None:
    rows = walks.rows("train")
    found = learned(walks, "overlapping")
    assert sorted(found) == rows.tolist()
    some_shorter = False
    for row, full in zip(rows.tolist(), walks.histories(rows)[1].tolist(), strict=True):
        shown = len(found[row])
        assert min(full, walks.max_history // 2) <= shown <= full
        assert found[row] == walks.items[row - shown : row].tolist()
        some_shorter |= shown < full
    assert some_shorter, "no history was longer than a window"

    def read(histories: str) -> int:
        starts = history_starts(walks, histories)
        return sum(int((batch["items"] > 0).sum()) for batch, _ in batches(walks, starts=starts))

    assert read("windows") < read("overlapping") <= 2 * read("windows")
    assert read("overlapping") < read("exact")


def test_with_prefixes_a_batch_is_of_rows(walks: PreparedDataset) -> None:
    starts = history_starts(walks, "prefixes")
    found = batches(walks, starts=starts, joined=False)
    assert len(found) == -(-len(walks.rows("train")) // 7)
    assert all((batch["rows"] >= 0).sum() == len(batch["items"]) for batch, _ in found)


def test_where_nobody_has_more_than_fits_the_first_three_are_the_same(walks: PreparedDataset) -> None:
    whole = dataclasses.replace(walks, max_history=len(walks.items))
    plain = batches(whole, 2)
    for histories in ("overlapping", "exact"):
        for (ours, total), (theirs, expected) in zip(
            batches(whole, 2, starts=history_starts(whole, histories)), plain, strict=True
        ):
            assert total == expected and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("histories", ["windows", "overlapping", "exact", "prefixes"])
def test_processes_learn_a_batch_s_rows_once_among_them(walks: PreparedDataset, histories: str) -> None:
    shares = [learned(walks, histories, rank=rank, world=2) for rank in (0, 1)]
    assert not set(shares[0]) & set(shares[1])
    whole = learned(walks, histories)
    together = {**shares[0], **shares[1]}
    assert together.items() <= whole.items() and len(together) >= len(whole) - walks.max_history
