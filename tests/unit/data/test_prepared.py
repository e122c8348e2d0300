from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys import storage
from recsys.data import prepared
from recsys.data.prepared import PreparedDataset
from recsys.data.splits import SPLITS
from recsys.errors import UserError


def assert_same(left: PreparedDataset, right: PreparedDataset) -> None:
    assert left.describe() == right.describe()
    assert left.user_ids == right.user_ids
    assert left.catalogue.item_ids == right.catalogue.item_ids
    assert left.catalogue.titles == right.catalogue.titles
    for name in ("offsets", "items", "timestamps"):
        assert getattr(left, name).dtype == getattr(right, name).dtype
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    np.testing.assert_array_equal(left.catalogue.train_counts, right.catalogue.train_counts)
    for split in SPLITS:
        np.testing.assert_array_equal(left.rows(split), right.rows(split))


@pytest.mark.parametrize("row_group", [1, 50, 1 << 22])
def test_what_is_written_is_read_back(random_dataset, tmp_path, monkeypatch, row_group) -> None:
    monkeypatch.setattr(prepared, "ROW_GROUP", row_group)
    dataset = random_dataset()
    uri = str(tmp_path / "dataset")
    dataset.write(uri, key="k")
    loaded = PreparedDataset.load(uri)
    assert_same(dataset, loaded)
    assert loaded.fingerprint == dataset.fingerprint == replace(loaded, fingerprint="").fingerprint
    manifest = storage.read_manifest(uri)
    assert manifest is not None
    assert manifest.key == "k"
    assert manifest.attributes["fingerprint"] == dataset.fingerprint


def test_equal_datasets_are_equal_files(random_dataset, tmp_path) -> None:
    hashes = set()
    for name in ("a", "b"):
        random_dataset().write(str(tmp_path / name))
        hashes.add(storage.read_manifest(str(tmp_path / name)).content_hash)
    assert len(hashes) == 1


def test_the_fingerprint_covers_ids_order_and_splits(random_dataset) -> None:
    dataset = random_dataset()
    swapped = dataset.items.copy()
    first = next(i for i in range(len(swapped) - 1) if swapped[i] != swapped[i + 1])
    swapped[[first, first + 1]] = swapped[[first + 1, first]]
    renamed = replace(dataset.catalogue, item_ids=["", "new", *dataset.catalogue.item_ids[2:]])
    retitled = replace(dataset.catalogue, titles=["", "new", *dataset.catalogue.titles[2:]])
    moved = {**dataset.split_rows, "train": dataset.rows("train")[1:]}
    users = [*dataset.user_ids[1:], dataset.user_ids[0]]
    fresh = {"fingerprint": "", "titles_hash": ""}
    changed = [
        replace(dataset, items=swapped, **fresh),
        replace(dataset, catalogue=renamed, **fresh),
        replace(dataset, split_rows=moved, **fresh),
        replace(dataset, user_ids=users, **fresh),
        replace(dataset, protocol="global_time", **fresh),
        replace(dataset, max_history=9, **fresh),
    ]
    fingerprints = {dataset.fingerprint, *(other.fingerprint for other in changed)}
    assert len(fingerprints) == 1 + len(changed)
    other = replace(dataset, catalogue=retitled, **fresh)
    assert other.fingerprint == dataset.fingerprint
    assert other.titles_hash != dataset.titles_hash
    assert replace(dataset, name="other", **fresh).fingerprint == dataset.fingerprint


def test_histories_agree_with_slices(random_dataset) -> None:
    dataset = random_dataset()
    for limit in (1, 5, None, 100):
        for split in SPLITS:
            rows = dataset.rows(split)
            items, lengths = dataset.histories(rows, limit)
            width = limit or dataset.max_history
            assert items.shape == (len(rows), width)
            for row, history, length, user in zip(rows, items, lengths, dataset.users_of(rows), strict=True):
                assert dataset.offsets[user] <= row < dataset.offsets[user + 1]
                past = dataset.items[dataset.offsets[user] : row].tolist()
                assert dataset.seen(row).tolist() == past
                expected = past[-width:]
                assert length == len(expected) > 0
                assert history.tolist() == expected + [0] * (width - len(expected))
        which, items = dataset.past(rows)
        for index, row in enumerate(rows):
            assert items[which == index].tolist() == dataset.seen(row).tolist()
    np.testing.assert_array_equal(dataset.targets(rows), [dataset.items[row] for row in rows])


def test_a_damaged_or_missing_dataset_is_one_sentence(random_dataset, tmp_path) -> None:
    uri = str(tmp_path / "dataset")
    with pytest.raises(UserError, match="does not exist"):
        PreparedDataset.load(uri)
    random_dataset().write(uri)
    file = Path(uri) / "sequences.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-7])
    with pytest.raises(UserError, match=r"sequences\.parquet has \d+ bytes instead of"):
        PreparedDataset.load(uri)
    file.write_bytes(content[:100] + b"?" + content[101:])
    with pytest.raises(UserError, match="does not match its checksum"):
        PreparedDataset.load(uri)
    file.write_bytes(content)
    (Path(uri) / storage.MANIFEST).unlink()
    with pytest.raises(UserError, match="is incomplete"):
        PreparedDataset.load(uri)


def test_files_that_do_not_belong_together_are_refused(random_dataset, tmp_path) -> None:
    dataset = random_dataset()
    titles = ["", "new", *dataset.catalogue.titles[2:]]
    for name, other in {
        "titles": replace(dataset, catalogue=replace(dataset.catalogue, titles=titles)),
        "rows": replace(dataset, split_rows={**dataset.split_rows, "train": dataset.rows("train")[1:]}),
    }.items():
        other.write(str(tmp_path / name))  # with the fingerprint and the hash of titles of the first
        with pytest.raises(UserError, match="its files do not belong together"):
            PreparedDataset.load(str(tmp_path / name))


def test_another_artefact_is_not_a_dataset(tmp_path) -> None:
    uri = str(tmp_path / "other")
    with storage.new_artifact(uri) as directory:
        (directory / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is not a prepared dataset"):
        PreparedDataset.load(uri)


def test_popular_items_come_first(random_dataset) -> None:
    catalogue = random_dataset(items=5).catalogue
    catalogue = replace(catalogue, train_counts=np.array([0, 2, 9, 2, 0, 9]))
    assert catalogue.popular().tolist() == [2, 5, 1, 3, 4]


def test_samples_are_seeded_and_ascending(random_dataset) -> None:
    dataset = random_dataset()
    rows = dataset.rows("train").tolist()
    one, same, other = (dataset.sample("train", 20, seed=seed).tolist() for seed in (1, 1, 2))
    assert one == same == sorted(set(one)) and len(one) == 20 and set(one) <= set(rows)
    assert one != other
    assert dataset.sample("train", None, seed=1).tolist() == dataset.sample("train", 9999, seed=1).tolist() == rows


def test_a_user_s_fold_goes_by_the_id_alone(random_dataset) -> None:
    dataset = random_dataset(users=40)
    turned = replace(dataset, user_ids=dataset.user_ids[::-1], fingerprint="")
    assert turned.folds(3).tolist() == dataset.folds(3).tolist()[::-1]


def test_a_fold_of_users_is_left_out_of_training(random_dataset) -> None:
    dataset = random_dataset(users=40)
    folds = dataset.folds(3)
    assert set(folds.tolist()) == {0, 1, 2}
    kept = [dataset.without_training_rows_of(folds == fold) for fold in range(3)]
    for fold, part in enumerate(kept):
        expected = [row for row in dataset.rows("train") if folds[dataset.users_of(np.array([row]))[0]] != fold]
        assert part.rows("train").tolist() == expected
        assert part.rows("valid").tolist() == dataset.rows("valid").tolist()
        assert part.fingerprint == dataset.fingerprint
        counts = np.zeros(dataset.num_items + 1, dtype=np.int64)
        for user in np.flatnonzero(folds != fold):
            sequence = dataset.items[dataset.offsets[user] : dataset.offsets[user + 1]]
            if len(sequence) > 3:  # what is left besides validation and test is more than a first item
                np.add.at(counts, sequence[:-2], 1)
        assert part.catalogue.train_counts.tolist() == counts.tolist()
