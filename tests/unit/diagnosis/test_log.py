"""Counted again by loops over users and events."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.data.splits import find_seen_by_training
from recsys.diagnosis.log import (
    CUTOFFS,
    measure_history,
    measure_resemblance,
    measure_successors,
    measure_targets,
)
from recsys.rules.config import RulesConfig
from recsys.rules.counts import Counts


def sequences(dataset: PreparedDataset) -> list[list[int]]:
    """What training may see of each user."""
    seen = find_seen_by_training(dataset.offsets, dataset.rows("train"))
    return [
        [int(dataset.items[at]) for at in range(*dataset.sequence(user).indices(len(dataset.items))) if seen[at]]
        for user in range(dataset.num_users)
    ]


def successors(dataset: PreparedDataset) -> dict[int, Counter[int]]:
    found: dict[int, Counter[int]] = defaultdict(Counter)
    for sequence in sequences(dataset):
        for one, other in itertools.pairwise(sequence):
            found[one][other] += 1
    return found


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    return random_dataset(users=40, items=12, longest=20)


def test_successors_are_counted(dataset: PreparedDataset) -> None:
    found, follow = measure_successors(dataset), successors(dataset)
    assert found["successions"] == sum(sum(each.values()) for each in follow.values())
    often = {i: each for i, each in follow.items() if sum(each.values()) >= 5}
    assert found["items"] == len(often) > 3
    distinct = [len(each) for each in often.values()]
    assert found["distinct"]["median"] == pytest.approx(np.median(distinct))
    weights = {i: sum(each.values()) for i, each in often.items()}
    entropy = {i: -sum(c / weights[i] * math.log2(c / weights[i]) for c in each.values()) for i, each in often.items()}
    assert found["entropy"]["bits"] == pytest.approx(
        sum(weights[i] * entropy[i] for i in often) / sum(weights.values())
    )
    agree = pairs = 0.0
    for each in follow.values():
        of_item = [item for item, count in each.items() for _ in range(count)]
        if len(of_item) > 1:
            both = list(itertools.permutations(of_item, 2))
            agree += len(of_item) * sum(a == b for a, b in both) / len(both)
            pairs += len(of_item)
    assert found["again"]["of_an_item"] == pytest.approx(agree / pairs)
    anything = Counter(item for each in follow.values() for item in each.elements())
    total = sum(anything.values())
    chance = sum(c * (c - 1) for c in anything.values()) / (total * (total - 1))
    assert found["again"]["of_any"] == pytest.approx(chance)
    assert sum(found["histogram"].values()) == pytest.approx(1)
    for bound, share in found["histogram"].items():
        low = int(bound) // 2 if int(bound) > 2 else int(bound) - 1
        assert share == pytest.approx(sum(low < d <= int(bound) for d in distinct) / len(distinct))


def test_a_log_without_choice_repeats_itself(random_dataset: Callable[..., PreparedDataset]) -> None:
    dataset = random_dataset(users=30, items=6, longest=15)
    walks = dataset.items.copy()
    for user in range(dataset.num_users):
        where = dataset.sequence(user)
        walks[where] = np.arange(where.stop - where.start) % 6 + 1
    found = measure_successors(replace(dataset, items=walks, fingerprint=""))
    assert found["again"]["of_an_item"] == 1 and found["distinct"]["high"] == 1
    assert found["entropy"]["bits"] == pytest.approx(0, abs=1e-12)
    assert found["histogram"] == {"1": 1.0}


def test_targets_are_placed(random_dataset: Callable[..., PreparedDataset]) -> None:
    dataset, n = random_dataset(users=40, items=50, longest=12), 50
    rows = dataset.rows("valid")
    items = np.where(dataset.items == n, 1, dataset.items)
    items[rows[3]] = n  # never seen in training
    items[rows[5]] = items[rows[5] - 1]
    seen = find_seen_by_training(dataset.offsets, dataset.rows("train"))
    counts = np.bincount(items[seen], minlength=n + 1)
    dataset = replace(dataset, items=items, catalogue=replace(dataset.catalogue, train_counts=counts), fingerprint="")
    follow = successors(dataset)
    kinds: Counter[str] = Counter()
    direct_reach = hops_reach = 0
    for row in rows.tolist():
        target, last = int(items[row]), int(items[row - 1])
        past = items[dataset.offsets[dataset.users_of(np.array([row]))[0]] : row].tolist()
        one = set(follow[last])
        two = one | {third for second in one for third in follow[second]}
        direct_reach += len(one)
        hops_reach += len(two)
        kinds[
            "cold"
            if not counts[target]
            else "repeat"
            if target in past
            else "direct"
            if target in one
            else "hops"
            if target in two
            else "further"
        ] += 1
    found = measure_targets(dataset, rows)
    assert found["kinds"] == pytest.approx({name: kinds[name] / len(rows) for name in found["kinds"]})
    assert min(kinds[name] for name in found["kinds"]) >= 1, "all kinds are there"
    assert found["reach"]["direct"] == pytest.approx(direct_reach / len(rows) / n)
    assert found["reach"]["hops"] == pytest.approx(hops_reach / len(rows) / n)
    assert found["seldom"]["items"] == pytest.approx((counts[1:] < 5).mean())


@pytest.mark.parametrize("latest", [1, 3])
def test_histories_are_cut_and_ranked(random_dataset: Callable[..., PreparedDataset], latest: int) -> None:
    dataset = random_dataset(users=40, items=30, longest=20)
    rows, config = dataset.rows("valid"), RulesConfig(decay=0.7, target=0.3)
    counts = Counts.fit(dataset, config)
    found = measure_history(dataset, counts, rows, (latest, 50), samples=200)
    assert [each["latest"] for each in found["tries"]] == [latest, None], "50 are more than a model is shown"
    dense = counts.rules().toarray()
    ranks: dict[int | None, list[float]] = {latest: [], None: []}
    for row in rows.tolist():
        past = dataset.items[dataset.offsets[dataset.users_of(np.array([row]))[0]] : row].tolist()
        for number, kept in ((latest, past[-latest:]), (None, past[-8:])):
            scores = sum(0.7**age * dense[item] for age, item in enumerate(reversed(kept)))
            target = dataset.items[row]
            better = [j for j in range(1, 31) if j not in past and j != target and scores[j] >= scores[target] > 0]
            ranks[number].append(math.inf if target in past or scores[target] == 0 else 1 + len(better))
    for each in found["tries"]:
        reached = ranks[each["latest"]]
        gain = sum(1 / math.log2(r + 1) if r <= 10 else 0 for r in reached) / len(rows)
        assert each["ndcg@10"]["mean"] == pytest.approx(gain)
        assert each["ndcg@10"]["low"] <= gain <= each["ndcg@10"]["high"]
        assert each["hr"] == pytest.approx({str(k): sum(r <= k for r in reached) / len(rows) for k in CUTOFFS})
    whole = found["tries"][-1]["ndcg@10"]["mean"]
    assert found["tries"][0]["more_by_all"]["mean"] == pytest.approx(whole - found["tries"][0]["ndcg@10"]["mean"])
    assert found["reach"] == pytest.approx(sum(math.isfinite(r) for r in ranks[None]) / len(rows))


def test_titles_of_successors_are_nearer_where_sequences_keep_to_a_group(
    random_dataset: Callable[..., PreparedDataset],
) -> None:
    dataset = random_dataset(users=60, items=20, longest=12)
    group = np.arange(21) % 2
    items = dataset.items.copy()
    for user in range(dataset.num_users):
        where = dataset.sequence(user)
        own = np.flatnonzero(group[1:] == user % 2) + 1
        items[where] = own[items[where] % len(own)]
    dataset = replace(dataset, items=items, fingerprint="")
    titles = torch.nn.functional.one_hot(torch.from_numpy(group)).float() * 2 - 1
    titles = torch.nn.functional.normalize(titles, dim=1)
    titles[0] = 0
    known = np.arange(21) > 0
    found = measure_resemblance(dataset, titles, known, 10_000)
    assert found["cosine"]["successors"] == pytest.approx(1) and abs(found["cosine"]["strangers"]) < 0.3
    # A stranger is of the other group half of the time; ties count half.
    assert found["above"] == pytest.approx(0.5 + 0.5 * (1 - found["cosine"]["strangers"]) / 2, abs=1e-6)
    assert sum(found["histogram"]["successors"]) == pytest.approx(1)
    expected = sum(one != other for sequence in sequences(dataset) for one, other in itertools.pairwise(sequence))
    assert found["pairs"] == expected and measure_resemblance(dataset, titles, known, 7)["pairs"] == 7
    assert measure_resemblance(dataset, titles, np.zeros(21, bool), 7) == {"pairs": 0}
    shuffled = titles[torch.cat([torch.zeros(1, dtype=torch.long), torch.randperm(20) + 1])]
    assert measure_resemblance(dataset, shuffled, known, 10_000)["above"] == pytest.approx(0.5, abs=0.1)
