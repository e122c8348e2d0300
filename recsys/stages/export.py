"""A model exported for other programs (`recsys.serving.export`), as an artefact of its own.

<storage>/<name>/exports/<model>/items.parquet      item_id, title, vector
                                 queries.parquet    user, vector
                                 model.pt2          histories → scores, by PyTorch alone
                                 export.json        the checkpoint's hash, sizes in bytes, how well it agrees
"""

import json
from dataclasses import asdict

from recsys import storage
from recsys.checkpoint import load_checkpoint
from recsys.config import digest
from recsys.data.prepared import PreparedDataset
from recsys.names import require_name
from recsys.settings import Settings
from recsys.stages.artefacts import alone, is_current, require


@alone(lambda settings, name, **_: (settings.layout.export(require_name(name, "the model")), f"export of {name}"))
def make(settings: Settings, name: str, *, queries: bool = False, model: bool = True, force: bool = False) -> None:
    """Export a student or a teacher unless that is done.

    Args:
        queries: with the vectors of the dataset's users.
        model: with the one-file model.

    Raises:
        UserError: it is not there, is of a kind without vectors, or cannot be exported.
    """
    from recsys.serving.export import TOLERANCE, write_items, write_model, write_queries

    layout = settings.layout
    source, uri = layout.model(name), layout.export(name)
    manifest = require(source, f"checkpoint of {name!r}", "distill")
    asked = {"checkpoint": manifest.content_hash, "model": model, "format": 2}
    if queries:
        asked["dataset"] = require(layout.dataset, "prepared dataset", "prepare_data").content_hash
    key = digest(asked)
    if not force and is_current(uri, key):
        print(f"export: {uri} is up to date", flush=True)
        return
    checkpoint = load_checkpoint(source)
    facts = {"model": name, "checkpoint": checkpoint.hash, "kind": checkpoint.model.kind}
    with storage.new_artifact(uri, key=key, attributes=facts) as folder:
        width = write_items(checkpoint, folder / "items.parquet")
        said = [f"{len(checkpoint.catalogue):,} items of {width} numbers"]
        told: dict[str, object] = {
            **facts,
            "dataset": checkpoint.info["dataset"],
            "num_items": len(checkpoint.catalogue),
            "width": width,
        }
        if queries:
            dataset = PreparedDataset.load(layout.dataset)
            told["users"] = write_queries(
                checkpoint, dataset, folder / "queries.parquet", settings.recommendations.batch_size
            )
            said.append(f"{told['users']:,} users")
        if model:
            parity = write_model(checkpoint, folder / "model.pt2")
            told["parity"] = {**asdict(parity), "tolerance": TOLERANCE}
            said.append(f"model.pt2 within {parity.difference:.1e} of the checkpoint (tolerance {TOLERANCE:.0e})")
        told["bytes"] = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        told["bytes_of_checkpoint"] = manifest.size
        (folder / "export.json").write_text(json.dumps(told, indent=2) + "\n")
        sizes = ", ".join(f"{file.name} {file.stat().st_size / 1e6:.2f} MB" for file in sorted(folder.iterdir()))
    print(f"export: {', '.join(said)}", flush=True)
    print(f"export: {sizes} (the checkpoint has {manifest.size / 1e6:.2f} MB); {uri}", flush=True)
