"""Titles to vectors, by any transformers model, computed once for a catalogue.

Legend: N items, W width of the item language model.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from recsys import storage
from recsys.config import digest, to_dict
from recsys.decoders.config import ItemEncoderConfig
from recsys.decoders.loading import identity, load_tokenizer, load_transformers_config, load_transformers_model
from recsys.errors import UserError

Progress = Callable[[int, int], None]
"""Called with (done, in all)."""


@dataclass(frozen=True)
class TextEmbeddings:
    """The text side of a catalogue.

    Attributes:
        vectors: [N+1, W] float32 of unit length; zero at padding and where a title is missing.
        missing: [N+1] bool, items without a title (padding is not counted as one).
    """

    vectors: Tensor
    missing: Tensor

    @classmethod
    def load(cls, uri: str) -> "TextEmbeddings":
        """Read what `embed_titles` wrote."""
        tensors = load_file(storage.local_copy(uri, "text embeddings") / "text.safetensors")
        return cls(vectors=tensors["vectors"], missing=tensors["missing"])

    @property
    def width(self) -> int:
        return self.vectors.shape[1]

    def standardise(self) -> Tensor:
        """[N+1, W] float32: every dimension centred and scaled to variance 1 / W over the items that have a title.

        Language-model vectors lie in a narrow cone (their mean is far from zero), which hides what tells items apart.
        Rows have a length of about 1: at √W, Adam's steps on what reads them would be as many times too long
        (docs/experiments). Missing titles stay zero, that is, average.
        """
        mean, scale = self.scale()
        standardised = ((self.vectors.double() - mean) / scale).float()
        return torch.where(self.known[:, None], standardised, 0.0)

    def scale(self) -> tuple[Tensor, Tensor]:
        """What `standardise` takes off and divides by, [W] float64 each."""
        rows = self.vectors[self.known].double()
        if not len(rows):
            return torch.zeros(self.width, dtype=torch.float64), torch.ones(self.width, dtype=torch.float64)
        spread = rows.std(dim=0, correction=0)
        # Some models have dimensions that are the same for every text; their rounding must not be blown up.
        spread = spread.clamp_min(max(1e-3 * float(spread.median()), 1e-12))
        return rows.mean(dim=0), spread * self.width**0.5

    @property
    def known(self) -> Tensor:
        """[N+1] bool, items with a title."""
        known = ~self.missing
        known[0] = False
        return known


def embed_titles(
    titles: Sequence[str],
    config: ItemEncoderConfig,
    *,
    titles_hash: str,
    cache: str,
    progress: Progress | None = None,
) -> str:
    """Where the embeddings of a catalogue lie (`TextEmbeddings.load`); computed unless they are in `cache`.

    Args:
        titles: N+1 strings, "" at 0 and where a title is missing.
        titles_hash: of the titles (`PreparedDataset.titles_hash`); with the model and its settings it is the key.
        cache: storage URI of a folder for embeddings.
        progress: called with (titles done, titles in all) after each batch.

    Raises:
        UserError: the model is not there, needs code of its own, or is neither encoder nor decoder.
    """
    uri, key = _place(config, titles_hash, cache)
    if not storage.is_current(uri, key):
        embeddings = encode(titles, config, progress=progress)
        with storage.new_artifact(uri, key=key, attributes={"model": config.model}) as directory:
            tensors = {"vectors": embeddings.vectors, "missing": embeddings.missing}
            save_file(tensors, directory / "text.safetensors")
    return uri


def find_embeddings(config: ItemEncoderConfig, *, titles_hash: str, cache: str) -> TextEmbeddings | None:
    """What `embed_titles` left for these titles, None where there is nothing.

    Raises:
        UserError: the model is not there.
    """
    uri, key = _place(config, titles_hash, cache)
    return TextEmbeddings.load(uri) if storage.is_current(uri, key) else None


def _place(config: ItemEncoderConfig, titles_hash: str, cache: str) -> tuple[str, str]:
    """URI and key of the embeddings of a catalogue."""
    settings = {name: value for name, value in to_dict(config).items() if name != "batch_tokens"}
    key = digest({**settings, "model": identity(config.model), "titles": titles_hash})
    return storage.join(cache, key[:32]), key


@torch.inference_mode()
def encode(titles: Sequence[str], config: ItemEncoderConfig, *, progress: Progress | None = None) -> TextEmbeddings:
    """Run the item language model over N+1 titles, on a GPU where there is one.

    Raises:
        UserError: see `embed_titles`.
    """
    tokenizer, model, last_token = load_item_model(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    present = [row for row, title in enumerate(titles) if title.strip()]
    missing = torch.tensor([row > 0 and not title.strip() for row, title in enumerate(titles)])
    vectors = torch.zeros(len(titles), model.config.hidden_size)
    tokens = tokenise([titles[row] for row in present], tokenizer, config)
    done = 0
    for batch in batches_by_length([len(ids) for ids in tokens], config.batch_tokens):
        padded = tokenizer.pad({"input_ids": [tokens[i] for i in batch]}, padding_side="right", return_tensors="pt")
        mask = padded["attention_mask"].to(device)
        pooled = read_titles(model, padded["input_ids"].to(device), mask, last_token=last_token)
        vectors[[present[i] for i in batch]] = pooled.cpu()
        done += len(batch)
        if progress:
            progress(done, len(present))
    return TextEmbeddings(vectors=vectors, missing=missing)


def tokenise(titles: Sequence[str], tokenizer: Any, config: ItemEncoderConfig) -> list[list[int]]:
    """What the item language model reads of each title."""
    tokens: list[list[int]] = []
    for start in range(0, len(titles), 4096):
        texts = [config.prompt + title.strip() for title in titles[start : start + 4096]]
        tokens += tokenizer(texts, truncation=True, max_length=config.max_tokens)["input_ids"]
    return tokens


def read_titles(model: Any, tokens: Tensor, mask: Tensor, *, last_token: bool) -> Tensor:
    """Unit vectors [B, W] float32 of tokens [B, L], where mask [B, L] is 0 padding on the right."""
    # Padding is what neither kind of pooling looks at.
    hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
    lengths = mask.sum(dim=1)
    if last_token:
        pooled = hidden[torch.arange(len(tokens), device=tokens.device), lengths - 1]
    else:
        pooled = (hidden * mask[..., None]).sum(dim=1) / lengths[:, None]
    return functional.normalize(pooled, dim=1)


def batches_by_length(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, so that little padding is computed."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        size = max(1, batch_tokens // max(1, lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def load_item_model(config: ItemEncoderConfig) -> tuple[Any, Any, bool]:
    """Tokenizer, model, and whether the last token (not the mean) is the embedding."""
    model_config = load_transformers_config(config.model)
    tokenizer = load_tokenizer(config.model)
    model = load_transformers_model(config.model, torch.bfloat16 if config.dtype == "bf16" else torch.float32)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model.eval(), config.pooling == "last" or (config.pooling == "auto" and _decodes(model_config))


def _decodes(config: Any) -> bool:
    """Whether a model reads from left to right, so that only its last token has seen the whole title."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"model type {config.model_type!r} is an encoder with a decoder; choose one of either kind")
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
