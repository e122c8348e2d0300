"""The memory: sequential rules, alone and with titles, fitted and chosen on validation; nothing is trained.

Its checkpoints lie at `<storage>/<name>/rules/<kind>`; they are baselines of the ladder, terms of hybrid students and,
where a student names the set of signals `rules`, a teacher that leaves each user's own events out.
"""

from functools import partial

from recsys import storage
from recsys.checkpoint import load_checkpoint
from recsys.config import digest, key_values, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.decoders.item_encoder import TextEmbeddings, embed_titles
from recsys.rules.config import RULES, RULES_WITH_TITLES
from recsys.rules.fit import fit_rules
from recsys.rules.signals import write_signals
from recsys.settings import Layout, RulesSettings, Settings
from recsys.signals.row_choice import read_chosen
from recsys.signals.signals import TeacherSignals
from recsys.stages import row_choice
from recsys.stages.artefacts import alone, is_current, require, start_run
from recsys.stages.executor import Executor, say, say_titles

KINDS = (RULES, RULES_WITH_TITLES)
SIGNALS = "rules"


def key(settings: Settings) -> str:
    """Digest of what the rules depend on.

    Raises:
        UserError: the dataset is not there yet.
    """
    dataset = require(settings.layout.dataset, "prepared dataset", "prepare_data")
    inputs = [dataset.attributes["fingerprint"], dataset.files["items.parquet"]["sha256"]]
    return digest({"rules": key_values(settings.rules), "inputs": inputs})


@alone(lambda settings, *_, **__: (settings.layout.rules(RULES), "the rules"))
def make(settings: Settings, executor: Executor, *, force: bool = False, signals: bool = True) -> None:
    """Fit the rules unless they are there, and make their signals where a student learns from them.

    Args:
        signals: False leaves their signals alone.
    """
    layout, work, asked = settings.layout, key(settings), settings.rules
    if not force and _is_current(layout, work):
        print("rules: unchanged, kept", flush=True)
    else:
        with start_run(settings, "rules", params=to_dict(asked)) as recorded:
            fitted = executor.call(partial(fit, asked, layout, work), cpus=asked.cpus, gpus=0, section="rules")
            recorded.log_metrics({name: {"valid": value} for name, value in fitted.items() if value is not None})
    if signals:
        make_signals(settings, executor, force=force)


def _is_current(layout: Layout, work: str) -> bool:
    """Whether the rules are there, and those with titles are none that are damaged."""
    with_titles = layout.rules(RULES_WITH_TITLES)
    return is_current(layout.rules(RULES), work) and (
        storage.read_manifest(with_titles) is None or is_current(with_titles, work)
    )


def fit(asked: RulesSettings, layout: Layout, work: str) -> dict[str, float | None]:
    """Choose the constants on validation and write the checkpoints; NDCG@10 on validation of each."""
    dataset = PreparedDataset.load(layout.dataset)
    text = None
    if asked.titles is not None and any(title.strip() for title in dataset.catalogue.titles):
        uri = embed_titles(
            dataset.catalogue.titles,
            asked.titles,
            titles_hash=dataset.titles_hash,
            cache=storage.join(layout.storage_root, "text-embeddings"),
            progress=say_titles("rules"),
        )
        text = TextEmbeddings.load(uri)
    found = fit_rules(dataset, asked.model, text=text, tuning=asked.tuning, report=say)
    for name in reversed(KINDS):  # the one that says that all is there comes last
        if name in found:
            found[name].save(layout.rules(name), dataset, key=work, titles=asked.titles)
        else:
            storage.delete(layout.rules(name))
    return {name: each.valid for name, each in found.items()}


def best(layout: Layout) -> str:
    """URI of the rules with titles, or without where there are none.

    Raises:
        UserError: none are there yet.
    """
    with_titles = layout.rules(RULES_WITH_TITLES)
    if storage.read_manifest(with_titles) is not None:
        return with_titles
    require(layout.rules(RULES), "sequential rules", "rules")
    return layout.rules(RULES)


def make_signals(settings: Settings, executor: Executor, *, force: bool = False) -> None:
    """Make the signals of the rules where a student learns from them, unless they are there."""
    if any(s.distillation and s.distillation.signals == SIGNALS for s in settings.students.values()):
        make_signals_at(settings.layout.signals_of(SIGNALS), settings, executor, force=force)


@alone(lambda uri, *_, **__: (uri, "the signals of the rules"))
def make_signals_at(uri: str, settings: Settings, executor: Executor, *, force: bool = False) -> None:
    """Make a set of signals of the rules, as `settings.signals` asks, unless it is there.

    Raises:
        UserError: the rules, or what training rows are chosen by, are not there yet.
    """
    config, source = settings.signals, best(settings.layout)
    inputs = {"rules": require(source, "rules", "rules").content_hash, **row_choice.inputs(settings)}
    work = digest({"signals": key_values(config), **inputs})
    if not force and is_current(uri, work):
        print(f"signals of the rules: {uri} is up to date", flush=True)
        return
    chosen = row_choice.make(settings, executor, force=force)
    with start_run(settings, "signals of the rules"):
        asked = settings.rules
        executor.call(partial(_rank, settings, source, uri, work, chosen), cpus=asked.cpus, gpus=0, section="rules")


def _rank(settings: Settings, source: str, uri: str, work: str, chosen: str | None) -> None:
    dataset, rows = PreparedDataset.load(settings.layout.dataset), read_chosen(chosen) if chosen else None
    write_signals(uri, load_checkpoint(source), dataset, settings.signals, key=work, chosen=rows, report=say)
    TeacherSignals.load(uri, dataset)
