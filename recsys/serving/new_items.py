"""New items for a trained student, without training: each gets the vector that its title projects to.

Nothing else of the model changes, so what it said of the items it knows it says still. What the projection cannot know
is how often an item will be met: the offsets of the other items have learned that, a new one's is zero.
"""

from collections.abc import Mapping
from dataclasses import replace

import pyarrow.parquet as pq

from recsys import storage
from recsys.checkpoint import Checkpoint, read_description
from recsys.config import digest
from recsys.data.ids import normal_id
from recsys.data.prepared import Catalogue
from recsys.errors import UserError
from recsys.students.items import TableRecommender


def add_items(checkpoint: Checkpoint, items: Mapping[str, str]) -> Checkpoint:
    """A copy of a checkpoint that knows further items, after the others; its hash, of what it was made from, begins
    with `unsaved-` until it is saved (`recsys.checkpoint.save_again`) and loaded.

    Its `info` holds a record under `added_items`: the checkpoint it was made from, and how many items came.

    Args:
        items: id → title.

    Raises:
        UserError: the student has no title projector, an id is none or known already, a title is empty, or the item
            language model is not there.
    """
    model, catalogue = checkpoint.model, checkpoint.catalogue
    if not isinstance(model, TableRecommender) or model.title_projector is None:
        reason = checkpoint.info.get("no_new_items", "it keeps nothing that makes a vector from a title")
        raise UserError(
            f"this {model.kind} takes in no new items: {reason}; distil a student "
            "that has a vector for each item with distillation.embedding from a teacher that reads titles "
            "(docs/new-items.md)"
        )
    ids, titles = [normal_id(item) for item in items], [title.strip() for title in items.values()]
    check_new(ids, titles, catalogue)
    grown = model.with_items(model.title_projector.read(titles))
    made_from = {"checkpoint": checkpoint.hash, "items": len(ids), "digest": digest([ids, titles])}
    record = [*checkpoint.info.get("added_items", []), made_from]
    return replace(
        checkpoint,
        model=grown,
        catalogue=catalogue.extend(dict(zip(ids, titles, strict=True))),
        hash=f"unsaved-{digest(made_from)}",
        info={**checkpoint.info, "added_items": record},
    )


def read_further_items(uri: str, catalogue: Catalogue) -> dict[str, str]:
    """The items (id → title) of a checkpoint, or an export, that a catalogue does not hold; of most there are none, as
    its description tells without another file.

    Raises:
        UserError: the checkpoint is missing or damaged.
    """
    if read_description(uri)["num_items"] <= len(catalogue):
        return {}
    theirs = pq.read_table(storage.local_copy(uri, "checkpoint") / "items.parquet", columns=["item_id", "title"])
    pairs = zip(theirs["item_id"].to_pylist(), theirs["title"].to_pylist(), strict=True)
    return {item: title for item, title in pairs if item not in catalogue.index}


def check_new(ids: list[str], titles: list[str], catalogue: Catalogue) -> None:
    """Refuse what cannot become an item.

    Raises:
        UserError: names the first.
    """
    if not ids:
        raise UserError("there are no items to add; give at least one id with its title")
    seen: set[str] = set()
    for item, title in zip(ids, titles, strict=True):
        if not item:
            raise UserError(f"the item with the title {title!r} has no id; give it one")
        if catalogue.number(item) is not None:
            raise UserError(f"item {item!r} is in the catalogue already; leave it out")
        if item in seen:
            raise UserError(f"item {item!r} is there twice; leave one out")
        if not title:
            raise UserError(f"item {item!r} has no title, which its vector would be made from; give it one")
        seen.add(item)
