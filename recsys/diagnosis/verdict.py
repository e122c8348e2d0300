"""What the measurements mean, in plain words.

The limits are this project's own and rough: they part what is clear on the logs that were tried, and decide nothing
that an interval does not.
"""

from collections.abc import Mapping
from typing import Any

from recsys.rules.config import RULES_WITH_TITLES

HOLDS, PARTLY, NOT = "holds", "holds in part", "does not hold"
# Few successors: the inverse of the chance that two successions of an item agree. Resemblance: the chance that a
# successor's title is nearer than a stranger's. History: NDCG@10 from the last two items, or three, by the whole's.
_SUCCESSORS, _RESEMBLANCE, _HISTORY = (20, 100), (0.75, 0.6), 0.9


def human_price(value: float) -> str:
    """Two digits that say something: 0.0132 → "0.013", 154.3 → "154"."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.2g}"


def judge_shortcuts(log: Mapping[str, Any]) -> list[dict[str, str]]:
    """For each of the three: name, state and a sentence."""
    return [
        judge
        for judge in (
            _judge_successors(log["successors"], log["targets"]),
            _judge_resemblance(log["resemblance"]),
            _judge_history(log["history"]["tries"]),
        )
        if judge
    ]


def _judge_successors(successors: Mapping[str, Any], targets: Mapping[str, Any]) -> dict[str, str]:
    again, direct = successors["again"], targets["kinds"]["direct"]
    many = 1 / again["of_an_item"] if again["of_an_item"] else float("inf")
    state = HOLDS if many <= _SUCCESSORS[0] else PARTLY if many <= _SUCCESSORS[1] else NOT
    often = f", {again['times']:,.0f} times as often as chance has it" if again["times"] else ""
    said = (
        f"Of two times that an item is left, the same item comes next in {again['of_an_item']:.1%} of cases{often}. In "
        f"{direct:.0%} of the validation rows the true item has directly followed the last one before; such items are "
        f"{targets['reach']['direct']:.1%} of the catalogue."
    )
    return {"name": "Few successors", "state": state, "said": said}


def _judge_resemblance(resemblance: Mapping[str, Any] | None) -> dict[str, str] | None:
    if not resemblance or not resemblance.get("pairs"):
        return None
    above = resemblance["above"]
    state = HOLDS if above >= _RESEMBLANCE[0] else PARTLY if above >= _RESEMBLANCE[1] else NOT
    cosine = resemblance["cosine"]
    said = (
        f"The title of the next item is nearer to the last one's than that of an equally popular stranger in "
        f"{above:.0%} of cases (50% would be chance); mean cosine {cosine['successors']:.2f} against "
        f"{cosine['strangers']:.2f}."
    )
    return {"name": "Successors resemble their item", "state": state, "said": said}


def _judge_history(tries: list[Mapping[str, Any]]) -> dict[str, str]:
    whole = tries[-1]["ndcg@10"]["mean"]
    share = {each["latest"]: each["ndcg@10"]["mean"] / whole if whole else 1.0 for each in tries}

    def from_last(number: int) -> float:
        return max((reached for n, reached in share.items() if n is not None and n <= number), default=0.0)

    state = HOLDS if from_last(2) >= _HISTORY else PARTLY if from_last(3) >= _HISTORY else NOT
    parts = [f"{share[n]:.0%} from the last {'item' if n == 1 else f'{n} items'}" for n in (1, 2, 3) if n in share]
    said = f"Counting reaches {', '.join(parts)} of the NDCG@10 that it has from whole histories ({whole:.4f})."
    return {"name": "The latest items are enough", "state": state, "said": said}


def warn(found: Mapping[str, Any]) -> list[str]:
    """What speaks against the expensive pass, by what is there so far."""
    said = []
    models, sample = found.get("models"), found.get("sample")
    if models:
        better = {(each["of"], each["over"]): each for each in models["better"]}
        best, quality = models["best"], {row["name"]: row["ndcg@10"]["mean"] for row in models["rows"]}

        def named(group: str) -> str:
            return f"{best[group]}, {quality[best[group]]:.4f}"

        def pair(one: str, other: str) -> Mapping[str, Any] | None:
            return better.get((best.get(one, ""), best.get(other, "")))

        if (each := pair("counting", "alone")) and each["high"] >= 0:
            beats = "beats" if each["low"] > 0 else "is not shown to be worse than"
            said.append(
                f"Counting ({named('counting')}) {beats} the best student that learned alone ({named('alone')}): "
                f"{_interval(each)}. Tune the students, or serve counts and hybrids, before a teacher is paid for."
            )
        for other in ("alone", "counting"):
            if (each := pair("teacher", other)) and each["low"] <= 0:
                said.append(
                    f"The teacher ({quality[best['teacher']]:.4f}) {_stands(each)} {best[other]} "
                    f"({quality[best[other]]:.4f}): {_interval(each)}. What its lists can teach beyond is in doubt."
                )
        for taught, control in (("distilled", "control"), ("taught", "taught-control")):
            if (each := pair(taught, control)) and each["low"] <= 0:
                said.append(
                    f"{best[taught]} {_stands(each)} {best[control]}, which was taught the lists of "
                    f"other rows: {_interval(each)}. What it gained did not come from what is said of a row."
                )
    if sample:
        for each in sample["better"]:
            if each["low"] <= 0:
                said.append(
                    f"On {sample['rows']:,} validation rows the teacher ({sample['teacher']:.4f}) {_stands(each)} "
                    f"{each['over']} ({each['reached']:.4f}): {_interval(each)}. Do not rank all training "
                    "rows yet."
                )
    return said


def conclude(found: Mapping[str, Any]) -> str:
    """The verdict."""
    models = found["models"]
    held = [each for each in found["shortcuts"] if each["state"] == HOLDS]
    if models is None or "distilled" not in models["best"]:
        open_ = "Nothing was taught by a teacher yet. " if models else ""
        return open_ + _before(found, held)
    best = models["best"]
    each = next((e for e in models["better"] if (e["of"], e["over"]) == (best["distilled"], best.get("without"))), None)
    if each is None:
        return "What the teacher taught cannot be compared: nothing that does without it was evaluated."
    top, other, price = best["distilled"], best["without"], _price(found, each["mean"])
    if each["low"] > 0:
        said = f"Worth it so far: {top} is better than {other}, the best that needs no teacher"
    elif each["high"] < 0:
        said = f"Not worth it as it stands: {other} needs no teacher and is better than {top}"
    else:
        said = f"Not shown to be worth it: {top} and {other}, which needs no teacher, cannot be told apart"
    return f"{said}: {_interval(each)}.{price}"


def _before(found: Mapping[str, Any], held: list[dict[str, str]]) -> str:
    history = found["log"]["history"]
    whole = history["tries"][-1]
    titles = found["log"]["counting"].get(RULES_WITH_TITLES)
    with_titles = "" if titles is None else f" ({titles:.4f} with the cosine of titles)"
    counts = (
        f"counting reaches NDCG@10 {whole['ndcg@10']['mean']:.4f} on validation{with_titles}, has the true item among "
        f"its first ten in {whole['hr']['10']:.0%} of the rows, and can rank {history['reach']:.0%} of the true items "
        "at all"
    )
    warned = " The warnings above come first." if found["warnings"] else ""
    holding = f"{len(held)} of {len(found['shortcuts'])} shortcuts hold in full"
    if len(held) >= 2:
        return (
            f"Expect little of a language model: {holding}, and {counts}. Whatever is to be worth its cost has to beat "
            f"counting first.{warned}"
        )
    return (
        f"The log does not speak against it: {holding}; {counts}. Tune a student alone and a hybrid, then try the "
        f"teacher on a sample before it ranks all rows.{warned}"
    )


def _price(found: Mapping[str, Any], gain: float) -> str:
    cost = found.get("teacher_cost")
    if not cost:
        return ""
    hours = cost["training_hours"] + cost["pass_hours"]
    said = f" The teacher's training and pass took {hours:.2f} hours and cost {human_price(cost['cost'])}"
    if gain <= 0:
        return said + "."
    return said + f", or {human_price(cost['cost'] / (100 * gain))} for each hundredth of NDCG@10."


def _stands(each: Mapping[str, Any]) -> str:
    """How the first of a pair stands to the second where it is not shown to be better."""
    return "ranks below" if each["high"] < 0 else "is not shown to be better than"


def _interval(each: Mapping[str, Any]) -> str:
    return f"{each['mean']:+.4f}, 95 % [{each['low']:+.4f}, {each['high']:+.4f}]"
