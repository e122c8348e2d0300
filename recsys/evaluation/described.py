"""What each row of a ladder is, in a few words."""

from pathlib import Path
from typing import Any

from recsys.evaluation.results import Result

_BASELINES = {
    "recent-popularity": "the most frequent items of the last days of training, the same for everybody",
    "co-occurrence": "items that followed or preceded the latest ones in other users' sequences",
    "sequential-rules": "what follows what, counted, frequencies divided out; constants chosen on validation",
    "sequential-rules-titles": "the same counts, and the cosine of titles",
}

_TEACHERS = {  # what they are called, where their configuration names a language model, and what there is without one
    "hllm": ("HLLM", "user_model", "its user model from scratch"),
    "e4srec": ("E4SRec", "llm", "its language model from scratch"),
    "bigrec": ("BIGRec", "base", "its language model from scratch"),
}

_LANGUAGE_MODELS = {  # those that configurations name by a word of their own
    "minilm": "all-MiniLM-L6-v2",
    "smollm2": "SmolLM2-135M-Instruct (4-bit copy, dequantised)",
}
_LAYERS = {"smollm2": 30}
_RULES = "rules"  # the set of signals that the rules leave (`recsys.stages.rules`)


def describe(result: Result) -> str:
    """Kind, language model and its layers of a teacher; kind and loss of a student; what a baseline counts."""
    settings = result.training.get("settings", {})
    if result.role == "baseline":
        return _BASELINES.get(result.name, result.kind)
    if result.kind == "hybrid":
        return f"{settings.get('model', {}).get('student')} with counts and titles as further terms of its score"
    if result.role == "teacher":
        name, field, said = _TEACHERS.get(result.kind, (result.kind, "", ""))
        model = settings.get("model", {})
        base, item = model.get(field), model.get("item", {}).get("model")
        on = f" on {_language_model(base)}" if base not in (None, "from-scratch") else ""
        scratch = said if base == "from-scratch" else ""
        titles = f"titles read by {_language_model(item)}" if item not in (None, "minilm") else ""
        return ", ".join(
            part
            for part in (f"{name}{on}, the teacher", _layers(base, model.get("base_layers")), scratch, titles)
            if part
        )
    loss = settings.get("loss", {}).get("kind")
    taught = "distilled" if is_distilled(result) else "alone"
    if (settings.get("distillation") or {}).get("signals") == _RULES:
        taught += " from the sequential rules"
    return ", ".join(part for part in (result.kind, taught, f"{loss} loss" if loss else "") if part)


def is_distilled(result: Result) -> bool:
    """Whether it was trained on a teacher's answers or states."""
    settings = result.training.get("settings", {})
    alignment = settings.get("alignment") or {}
    return bool(settings.get("distillation")) or any(alignment.get(name) for name in ("cosine", "norm", "logits"))


def _layers(base: str | None, kept: Any) -> str:
    """How many layers of a pretrained model are taken, where not all are."""
    if kept is None:
        return ""
    count = kept if isinstance(kept, int) else len(kept)
    return f"{count} of {_LAYERS[base]} layers" if base in _LAYERS else f"{count} layer{'s' * (count > 1)} of it"


def _language_model(name: str) -> str:
    """A language model by the name that a configuration gives it; of a path its last part."""
    if name in _LANGUAGE_MODELS:
        return _LANGUAGE_MODELS[name]
    path = Path(name)
    shown = path.name if path.is_absolute() or name.startswith(("~", ".")) else name
    return f"{path.name} (dequantised)" if path.suffix.lower() == ".gguf" else shown
