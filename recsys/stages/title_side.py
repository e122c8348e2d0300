"""What of a teacher's making of embeddings a student's checkpoint keeps, so that it can take in new items."""

import json

import torch
from safetensors import safe_open

from recsys import storage
from recsys.config import from_dict
from recsys.data.prepared import PreparedDataset
from recsys.decoders.config import ItemEncoderConfig
from recsys.decoders.item_encoder import find_embeddings
from recsys.errors import UserError
from recsys.rules.config import RULES, RULES_WITH_TITLES
from recsys.rules.model import centre
from recsys.settings import Layout
from recsys.students.titles import TitleSide


def read_title_side(signals: str, source: str, layout: Layout, dataset: PreparedDataset) -> TitleSide:
    """How the embeddings of a set of signals were made from titles.

    Args:
        signals: its URI.
        source: which embeddings, as of `recsys.losses.config.EmbeddingDistillationConfig`.

    Raises:
        UserError: they were not, or not all that it takes is there any more; the end of a sentence.
    """
    made_by = storage.read_json(storage.join(signals, "signals.json"))["checkpoint_hash"]
    places = (layout.teacher, layout.rules(RULES_WITH_TITLES), layout.rules(RULES))
    found = {uri: manifest.content_hash for uri in places if (manifest := storage.read_manifest(uri))}
    uri = next((uri for uri, made in found.items() if made == made_by), None)
    if uri is None:
        raise UserError("the teacher that made the signals is not there any more")
    directory = storage.local_copy(uri, "teacher")
    said = json.loads((directory / "config.json").read_text())
    hllm = said["kind"] == "hllm"
    encoder = said["model"]["item"] if hllm else said.get("titles")
    if encoder is None or not (hllm or source == "text_embeddings"):
        raise UserError(f"the {source} of a teacher of kind {said['kind']} are not made from titles")
    if hllm and said["model"]["item_training"] != "frozen":
        raise UserError("the teacher has trained its item language model, which no checkpoint keeps")
    config = from_dict(ItemEncoderConfig, encoder)
    cache = storage.join(layout.storage_root, "text-embeddings")
    text = find_embeddings(config, titles_hash=dataset.titles_hash, cache=cache)
    if text is None:
        raise UserError(f"the text embeddings of the catalogue are not in {cache} any more")
    with safe_open(directory / "model.safetensors", "pt") as file:
        table = file.get_tensor("text" if hllm else "titles")
        fits = hllm and source == "item_embeddings"
        names = [name for name in file.keys() if fits and name.startswith(("project.", "mlp."))]  # noqa: SIM118
        fit = {name: file.get_tensor(name) for name in names}
    mean, scale = text.scale()
    if not torch.allclose(table, text.standardise() if hllm else centre(text.vectors, text.known), atol=1e-4):
        raise UserError("the teacher was made from other text embeddings of the titles")
    return TitleSide(config, mean.float(), scale.float() if hllm else None, fit)
