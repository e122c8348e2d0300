"""BIGRec: a language model reads the titles of a history, writes the next title, and the catalogue is ranked by its
L2 distance to what was written.

After Bao et al., "A Bi-Step Grounding Paradigm for Large Language Models in Recommendation Systems" (arXiv 2308.08434).

Titles are embedded by the language model as it was before fine-tuning where it is tuned by adapters, and by the
trained model where all its weights are trained: keeping a second copy of the weights would double the checkpoint, and
of a model made from scratch the first state means nothing.

Legend: B batch, L history, N items, W width of the language model.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from recsys import storage
from recsys.config import digest, from_dict, to_dict
from recsys.data.prepared import Catalogue, PreparedDataset
from recsys.decoders.dtypes import resolve_dtype
from recsys.decoders.item_encoder import Progress
from recsys.decoders.loading import identity, load_tokenizer
from recsys.decoders.lora import adapters, save_adapters
from recsys.errors import UserError
from recsys.evaluation.metrics import metrics_from_ranks
from recsys.evaluation.ranking import rank_targets
from recsys.histories import Histories
from recsys.inference.engine import check_finite, inference_engine
from recsys.model import SequentialRecommender, model_class
from recsys.signals.config import SignalsConfig
from recsys.signals.rankings import Rankings, finite_only
from recsys.teachers.bigrec.config import FROM_SCRATCH, BIGRecConfig
from recsys.teachers.bigrec.grounding import embed, nearest, smallest
from recsys.teachers.bigrec.language_model import (
    base_config,
    load_weights,
    new_language_model,
    train_tokenizer,
    without_adapters,
)
from recsys.teachers.bigrec.prompts import Prompts
from recsys.teachers.bigrec.training import TitleObjective, TitleWriter
from recsys.teachers.bigrec.trie import TitleTrie
from recsys.teachers.from_student import load_student, require_student
from recsys.training.in_step import keep_in_step
from recsys.training.objective import Objective

if TYPE_CHECKING:
    from recsys.teachers.bigrec.generation import TitleGenerator

_TOKENIZER = "tokenizer"
_GAMMAS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)
_ROWS = 256


class BIGRec(TitleWriter):
    """Scores are m² − |q − e|², m the smallest distance of a query: the dot product of [2q, −1, m² − |q|², m] and
    [e, |e|², 1, 0], which orders items like the negative distance. Vectors are relative to the catalogue's mean, which
    changes no distance and rounds less. With an injection `scores` are −w (|q − e| − m), w an item's weight: less the
    more popular the item is, or the more a student likes it after the history.
    """

    kind: ClassVar[str] = "bigrec"
    Config: ClassVar[type] = BIGRecConfig
    score_meaning: ClassVar[str] = "distance"
    higher_is_better: ClassVar[bool] = False
    distance_meaning: ClassVar[str] = "l2 between the vectors of the generated text and of the target's title"
    default_train_rows: ClassVar[int | None] = 10_000
    default_rows_per_shard: ClassVar[int] = 256
    config: BIGRecConfig
    items: Tensor
    mean: Tensor
    weights: Tensor
    gamma: Tensor
    prompts: Prompts

    def __init__(self, config: BIGRecConfig, *, num_items: int) -> None:
        """Random weights and a zero item table; `objective` or a checkpoint fills them."""
        super().__init__(config, num_items=num_items)
        self.lm = new_language_model(config)
        self.width = self.lm.get_input_embeddings().weight.shape[1]
        self.register_buffer("items", torch.zeros(num_items + 1, self.width))
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("weights", torch.ones(num_items + 1))
        self.uses_times = config.time_gaps
        self.student: SequentialRecommender | None = None
        if config.scores_model is not None:
            kind = model_class(config.scores_model["kind"])
            self.student = kind(from_dict(kind.Config, config.scores_model["model"]), num_items=num_items)
            self.student.requires_grad_(False)
            self.register_buffer("gamma", torch.zeros(1))
        self._stale = False  # the item table is of other weights
        self._generator: TitleGenerator | None = None

    @classmethod
    def prepare(
        cls,
        config: BIGRecConfig,
        dataset: PreparedDataset,
        *,
        cache: str,
        student: Callable[[str], str],
        progress: Progress | None = None,
    ) -> dict[str, str]:
        """The tokenizer of a model made from scratch; the title vectors of a base that gets adapters; the checkpoint of
        the student whose scores are used."""
        inputs = {}
        if (name := config.scores_from) is not None:
            inputs["scores"] = require_student(name, student(name), field="scores_from")
        if config.base == FROM_SCRATCH:
            return {_TOKENIZER: train_tokenizer(config, dataset, storage.join(cache, "tokenizers")), **inputs}
        if config.lora is None:
            return inputs
        model = cls._new(config, dataset, load_tokenizer(config.base))
        key = digest(
            {
                "base": [config.base, model.config.base_config, identity(config.base)],
                "texts": model.prompts.names,
                "pooling": config.pooling,
                "version": 1,
            }
        )
        uri = storage.join(cache, "title-vectors", key[:32])
        if not storage.is_current(uri, key):
            load_weights(model.lm, config)
            model.to("cuda" if torch.cuda.is_available() else "cpu").embed_titles()
            with storage.new_artifact(uri, key=key, attributes={"model": config.base}) as directory:
                tensors = {"items": model.items.cpu(), "mean": model.mean.cpu()}
                save_file(tensors, directory / "titles.safetensors")
            if progress:
                progress(dataset.num_items, dataset.num_items)
        return {"titles": uri, **inputs}

    @classmethod
    def objective(
        cls, config: BIGRecConfig, dataset: PreparedDataset, inputs: Mapping[str, str], *, seed: int
    ) -> Objective:
        torch.manual_seed(seed)
        scores = None
        if (name := config.scores_from) is not None:
            scores = load_student(name, inputs["scores"], dataset, field="scores_from").model
            config = dataclasses.replace(config, scores_model={"kind": scores.kind, "model": to_dict(scores.config)})
        if config.base == FROM_SCRATCH:
            model = cls._new(config, dataset, load_tokenizer(storage.local_copy(inputs[_TOKENIZER], "tokenizer")))
        else:
            model = cls._new(config, dataset, load_tokenizer(config.base))
            load_weights(model.lm, config)
        if "titles" in inputs:
            tensors = load_file(storage.local_copy(inputs["titles"], "title vectors") / "titles.safetensors")
            model.items.copy_(tensors["items"])
            model.mean.copy_(tensors["mean"])
        if model.student is not None and scores is not None:
            model.student.load_state_dict(scores.state_dict())
        return TitleObjective(model, seed=seed)

    @classmethod
    def _new(cls, config: BIGRecConfig, dataset: PreparedDataset, tokenizer: Any) -> "BIGRec":
        config = dataclasses.replace(config, base_config=base_config(config, tokenizer))
        model = cls(config, num_items=dataset.num_items)
        model.prompts = Prompts(tokenizer, dataset.catalogue, config)
        return model

    def save_files(self, directory: Path) -> None:
        self.prompts.tokenizer.save_pretrained(directory / _TOKENIZER)
        if self.config.lora is not None:
            save_adapters(adapters(self.lm.state_dict()), self.config.lora, self.config.base, directory / "adapter")

    def load_files(self, directory: Path, catalogue: Catalogue) -> None:
        self.prompts = Prompts(load_tokenizer(directory / _TOKENIZER), catalogue, self.config)
        self._generator = None

    def train(self, mode: bool = True) -> "BIGRec":
        # What was computed from the weights is computed anew once they are read again.
        self._generator = None
        self._stale |= mode and self.config.lora is None
        return super().train(mode)

    def finish(self, state: dict[str, Tensor], dataset: PreparedDataset) -> dict[str, Tensor]:
        self.load_state_dict(state)
        self.eval()
        if self.config.lora is None:
            self.embed_titles()
        if self.config.popularity or self.student is not None:
            self._choose_gamma(dataset)
        return self.state_dict()

    @torch.inference_mode()
    def _choose_gamma(self, dataset: PreparedDataset) -> None:
        """The γ with the best NDCG@10 on the sample of validation rows; of equally good ones the smallest."""
        rows = dataset.sample("valid", self.config.valid_rows, seed=0)
        device = self.items.device
        queries = self.query(Histories.of_rows(dataset, rows))
        found: list[tuple[float, float]] = []
        for gamma in _GAMMAS:
            self._inject(gamma, dataset)
            batches, vectors = iter(queries.split(_ROWS)), self.item_vectors()

            def score(shown: Histories, batches: Iterator[Tensor] = batches, vectors: Tensor = vectors) -> Tensor:
                return self._scores(next(batches), vectors, shown)

            ranks = rank_targets(score, dataset, rows, mask_seen=True, batch_size=_ROWS, device=device)
            found.append((metrics_from_ranks(ranks)["ndcg@10"], -gamma))
        self._inject(-max(found)[1], dataset)

    def _inject(self, gamma: float, dataset: PreparedDataset) -> None:
        if self.student is not None:
            self.gamma.fill_(gamma)
            return
        counts = torch.from_numpy(dataset.catalogue.train_counts[1:]).double()
        popularity = (counts - counts.min()) / (counts.max() - counts.min()).clamp_min(1)
        self.weights[1:] = ((1 + popularity) ** -gamma).to(self.weights)

    def scores(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        vectors = self.item_vectors() if vectors is None else vectors
        return self._scores(self.query(histories), vectors, histories)

    def _scores(self, query: Tensor, vectors: Tensor, histories: Histories) -> Tensor:
        scores = query.float() @ vectors.float().T
        if self.student is None and not self.config.popularity:
            return scores
        weights = self.weights if self.student is None else self.student_weights(histories)
        # The paper's code divides by the largest distance of the row as well, which changes no order.
        least = query[:, -1:].float()
        return (least - (least.square() - scores).clamp_min(0).sqrt()) * weights

    def student_weights(self, histories: Histories) -> Tensor:
        """[B, N+1]: (1 + c)^(−γ), c the student's scores for each history, scaled to 0..1 over the catalogue."""
        assert self.student is not None
        scores = self.student.scores(histories)[:, 1:]
        least, most = scores.aminmax(dim=1, keepdim=True)
        weights = (1 + (scores - least) / (most - least).clamp_min(1e-12)) ** -self.gamma.float()
        return functional.pad(weights, (1, 0), value=1.0)

    def embed_titles(self) -> None:
        """Fill the item table with the vectors of the titles as the language model gives them now."""
        distinct = list(self.prompts.index)
        vectors = self.embed_texts(distinct)
        of_name = {name: row for row, name in enumerate(distinct)}
        rows = torch.tensor([of_name[name] for name in self.prompts.names[1:]], device=vectors.device)
        table = vectors[rows]
        self.mean.copy_(table.double().mean(dim=0))
        self.items[1:] = (table - self.mean.float()).to(self.items.dtype)
        self._stale = False

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """[len(texts), W] float32, before the catalogue's mean is taken off."""
        training = self.lm.training
        self.lm.eval()
        try:
            with without_adapters(self.lm):
                tokens = [self.prompts.for_embedding(text) for text in texts]
                return embed(self.lm.base_model, tokens, self.config.pooling).to(self.items.device)
        finally:
            self.lm.train(training)

    def item_vectors(self) -> Tensor:
        """[N+1, W+3]: [e, |e|², 1, 0], row 0 zero."""
        items = self.item_embeddings()
        one = torch.ones_like(items[:, :1])
        vectors = torch.cat([items, items.square().sum(dim=1, keepdim=True), one, torch.zeros_like(one)], dim=1)
        vectors[0] = 0
        return vectors

    def item_embeddings(self) -> Tensor:
        """[N+1, W] e alone."""
        if self._stale:
            self.embed_titles()
        return self.items.float()

    @torch.no_grad()
    def query(self, histories: Histories) -> Tensor:
        """[B, W+3]: [2q, −1, m² − |q|², m], q the vector of the title that is written for each history."""
        shown = [
            [row[:length] for row, length in zip(values.tolist(), histories.lengths.tolist(), strict=True)]
            for values in (histories.items, histories.times)
            if values is not None
        ]
        with keep_in_step(
            self.lm, lambda: self.lm(input_ids=torch.tensor([[0]], device=self.lm.device), use_cache=False)
        ):
            if self._generator is None:
                self._generator = self.generator(self.lm)
            texts = self.write(self._generator, *shown)
        with keep_in_step(self.lm.base_model, lambda: self.embed_texts([""])):
            q = self.ground(texts)
        least = smallest(q, self.items.float())
        offset = least.square() - q.square().sum(dim=1, keepdim=True)
        return torch.cat([2 * q, -torch.ones_like(offset), offset, least], dim=1)

    def generator(self, forward: Callable[..., Any], *, batch_size: int = 64) -> "TitleGenerator":
        """What writes titles by `forward`, the language model or an engine around it."""
        from recsys.teachers.bigrec.generation import TitleGenerator

        prompts = self.prompts
        trie = None
        if self.config.constrained:
            trie = TitleTrie([[*prompts.title(item), prompts.end] for item in prompts.index.values()])
        return TitleGenerator(
            forward,
            prefix=prompts.prefix,
            closing=prompts.closing,
            end=prompts.end,
            beams=self.config.beams,
            new_tokens=self.config.title_tokens + 2,
            trie=trie,
            dtype=self.lm.dtype,
            device=self.lm.device,
            batch_size=batch_size,
        )

    def write(
        self,
        generator: "TitleGenerator",
        histories: Sequence[Sequence[int]],
        times: Sequence[Sequence[int]] | None = None,
    ) -> list[str | None]:
        """The title written for each history, None where what the language model said is not finite; equal prompts are
        written to once."""
        met = [None] * len(histories) if times is None else times
        prompts = [
            tuple(self.prompts.history(list(history), seconds)) for history, seconds in zip(histories, met, strict=True)
        ]
        distinct = list(dict.fromkeys(prompts))
        texts = [None if tokens is None else self.prompts.text(tokens) for tokens in generator.generate(distinct)]
        text_of = dict(zip(distinct, texts, strict=True))
        return [text_of[prompt] for prompt in prompts]

    def ground(self, texts: Sequence[str | None]) -> Tensor:
        """[len(texts), W] float32 relative to the catalogue's mean; NaN for None.

        A text that names an item has that item's vector, without a pass; others are embedded, equal ones once.
        """
        vectors = torch.full((len(texts), self.width), torch.nan, device=self.items.device)

        def places(number: Mapping[str, int]) -> Sequence[Tensor]:
            found = [(row, number[text]) for row, text in enumerate(texts) if text is not None and text in number]
            return torch.tensor(found, dtype=torch.int64, device=vectors.device).reshape(-1, 2).unbind(dim=1)

        rows, items = places(self.prompts.index)
        vectors[rows] = self.items[items].float()
        others = dict.fromkeys(text for text in texts if text is not None and text not in self.prompts.index)
        if others:
            rows, which = places({text: number for number, text in enumerate(others)})
            vectors[rows] = (self.embed_texts(list(others)) - self.mean.float())[which]
        return vectors

    def describe(self) -> dict[str, Any]:
        config = self.config
        said = {
            "language_model": config.base,
            "learned_rows": config.train_rows,  # a sample of this many training rows; null is all
            **{name: getattr(config, name) for name in ("beams", "constrained", "pooling", "time_gaps", "history")},
        }
        if self.student is not None:
            return said | {"scores_from": config.scores_from, "gamma": round(float(self.gamma), 4)}
        if config.popularity:  # the most popular item weighs 2^(−γ)
            return said | {"popularity": True, "gamma": round(-float(self.weights[1:].min().log2()), 4)}
        return said

    def ready(self, config: SignalsConfig, device: str | torch.device) -> "TitlePass":
        return TitlePass(self, config, device)


class TitlePass:
    """The pass of BIGRec behind DeepSpeed's inference engine (`recsys.teacher.TeacherPass`).

    With one process a model the engine is a plain wrapper (see `recsys.inference.engine`); what makes the pass fast is
    `recsys.teachers.bigrec.generation`, and that nothing is written or grounded twice.
    """

    def __init__(self, model: BIGRec, config: SignalsConfig, device: str | torch.device) -> None:
        self._model, self._config = model.eval(), config
        device = torch.device(device)
        dtype = resolve_dtype(config.dtype, device)
        if config.kernel_injection:
            raise UserError(
                "signals.kernel_injection is not for bigrec, which keeps keys and values itself; leave it out"
            )
        if config.tensor_parallel == 1:  # a model that is to be split need not fit the device
            model.to(device)
        check_finite(model.items)
        engine = inference_engine(model.lm, dtype, device, tensor_parallel=config.tensor_parallel)
        model.to(device)
        self._generator = model.generator(engine, batch_size=config.batch_size)

    def rank(self, dataset: PreparedDataset, rows: np.ndarray) -> Rankings:
        model, config = self._model, self._config
        latest = [dataset.latest(row) for row in rows.tolist()]
        histories, times = ([values[one].tolist() for one in latest] for values in (dataset.items, dataset.timestamps))
        before = self._generator.tokens
        queries = model.ground(model.write(self._generator, histories, times))
        items, distances = [], []
        for begin in range(0, len(rows), config.batch_size):
            chunk = slice(begin, begin + config.batch_size)
            excluded = None
            if config.mask_history:
                which, seen = dataset.past(rows[chunk])
                excluded = (torch.from_numpy(which).to(queries.device), torch.from_numpy(seen).to(queries.device))
            weights = model.weights if model.config.popularity else None
            if model.student is not None:
                weights = model.student_weights(Histories.of_rows(dataset, rows[chunk]).to(queries.device))
            found, distance = nearest(queries[chunk], model.items, config.k, excluded=excluded, weights=weights)
            items.append(found.cpu())
            distances.append(distance.cpu())
        targets = model.items[torch.from_numpy(dataset.targets(rows).astype(np.int64)).to(queries.device)]
        rankings = Rankings(
            rows=rows,
            items=torch.cat(items).numpy().astype(np.int32),
            scores=torch.cat(distances).numpy(),
            target_distance=(queries - targets).norm(dim=1).cpu().numpy(),
            tokens=self._generator.tokens - before,
        )
        return finite_only(rankings)
