"""The state of the experiment in one process, and in the file that outlives it."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from recsys.errors import UnwritableError, UserError
from recsys.serving.assignment import assign
from recsys.serving.experiment import Change, Experiment, Kept

USERS = [f"user-{n}" for n in range(4000)]


def configured(**given: Any) -> Experiment:
    plain: dict[str, Any] = {
        "arms": ("teacher", "student", "null"),
        "split": {"teacher": 0.1, "student": 0.9},
        "salt": "s",
        "shadow": 0.0,
    }
    return Experiment(**{**plain, **given})


def change(kept: Kept, **given: Any) -> Experiment:
    return asyncio.run(kept.change(Change(**given)))


@pytest.mark.parametrize("null", [0.0, 0.3])
def test_a_larger_share_moves_only_users_from_the_other_arm(null: float) -> None:
    before = configured(split={"teacher": 0.1, "student": 0.9 - null, "null": null})
    after = before.apply(Change(split={"teacher": 0.2, "student": 0.8 - null, "null": null}))
    pairs = [tuple(assign(user, one.split, one.salt) for one in (before, after)) for user in USERS]
    assert {pair for pair in pairs if pair[0] != pair[1]} == {("student", "teacher")}
    assert sum(a != b for a, b in pairs) / len(USERS) == pytest.approx(0.1, abs=0.02)


def test_what_is_left_out_stays_and_what_changes_counts() -> None:
    begun, kept = datetime.now(UTC), Kept(configured())
    assert kept.current.version == 1
    second = change(kept, shadow=0.5)
    assert (second.split, second.salt, second.shadow, second.version) == (configured().split, "s", 0.5, 2)
    third = change(kept, split={"student": 1}, salt="t")
    assert (third.split, third.salt, third.shadow, third.version) == ({"student": 1}, "t", 0.5, 3)
    assert begun < second.changed < third.changed
    assert change(kept, salt="t") == change(kept) == third == kept.current, "nothing changes"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split": {"teacher": 0.5}}, r"the shares of the split must add up to 1 \(got teacher 0.5\)"),
        ({"split": {"null": 1}}, r"split gives users to null, which is not one of arms \(teacher, student\)"),
    ],
)
def test_a_state_that_cannot_be_served_is_refused_and_nothing_changes(given: Any, message: str) -> None:
    kept = Kept(configured(arms=("teacher", "student")))
    with pytest.raises(UserError, match=message):
        change(kept, **given, salt="t")
    assert kept.current.salt == "s" and kept.current.version == 1


def test_a_shadow_needs_teacher_and_student() -> None:
    alone = Kept(configured(arms=("student",), split={"student": 1}))
    with pytest.raises(UserError, match=r"shadow is 0.5, which needs teacher and student among arms \(student\)"):
        change(alone, shadow=0.5)


@pytest.mark.parametrize(
    "given", [{"shadow": 1.1}, {"shadow": float("nan")}, {"salt": ""}, {"split": {"x": -1}}, {"k": 1}]
)
def test_changes_of_the_wrong_form(given: Any) -> None:
    with pytest.raises(ValidationError):
        Change(**given)


def test_who_is_shadowed_stays_so_and_is_chosen_beside_the_arms() -> None:
    some, more = configured(shadow=0.2), configured(shadow=0.4)
    chosen = {user for user in USERS if some.is_shadowed(user)}
    assert len(chosen) / len(USERS) == pytest.approx(0.2, abs=0.03)
    assert chosen < {user for user in USERS if more.is_shadowed(user)}
    assert not any(configured().is_shadowed(user) for user in USERS)
    assert all(configured(shadow=1.0).is_shadowed(user) for user in USERS)
    taught = [user for user in chosen if assign(user, {"teacher": 0.5, "student": 0.5}, "s") == "teacher"]
    assert len(taught) / len(chosen) == pytest.approx(0.5, abs=0.08)


def test_the_state_outlives_the_process_until_the_settings_say_something_else(tmp_path: Path) -> None:
    uri, said = str(tmp_path / "p" / "experiment.json"), []
    first = Kept(configured(), uri)
    assert not Path(uri).exists(), "what the settings say needs no file"
    changed = change(first, split={"teacher": 0.3, "student": 0.7})
    assert Kept(configured(), uri, said.append).current == changed and not said
    other = Kept(configured(salt="t"), uri, said.append)
    assert (other.current.split, other.current.salt, other.current.version) == (configured().split, "t", 3)
    assert said == [f"experiment: the settings have changed; they count, not version 2 of {uri}"]
    assert Kept(configured(salt="t"), uri).current == other.current, "not a new version with every start"
    assert Kept(configured(), uri).current.version == 4, "no version comes twice"
    assert [path.name for path in Path(uri).parent.iterdir()] == ["experiment.json"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"current": {"split": {}}}', '{"current": null}'])
def test_a_damaged_file_is_told_and_the_settings_count(tmp_path: Path, content: str) -> None:
    uri, said = tmp_path / "experiment.json", []
    uri.write_text(content)
    kept = Kept(configured(), str(uri), said.append)
    assert kept.current.version == 1 and said == [f"experiment: {uri} is damaged; the settings count"]
    change(kept, shadow=0.5)
    assert json.loads(uri.read_text())["current"]["shadow"] == 0.5


def test_what_cannot_be_kept_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("no folder")
    kept = Kept(configured(), str(tmp_path / "p" / "experiment.json"))
    with pytest.raises((UnwritableError, OSError)):
        change(kept, shadow=0.5)
    assert kept.current.shadow == 0 and kept.current.version == 1


def test_a_further_arm_is_changed_like_the_others_and_may_repeat_unseen() -> None:
    kept = Kept(configured(arms=("teacher", "student", "null", "challenger")))
    after = change(kept, split={"student": 0.5, "challenger": 0.5}, shadow=0.5, shadow_arm="challenger")
    assert {assign(user, after.split, after.salt) for user in USERS} == {"student", "challenger"}
    assert (after.shadow, after.shadow_arm) == (0.5, "challenger")
    for given, message in (
        (
            {"split": {"chalenger": 1}},
            r"users to chalenger, which is not one of arms \(teacher, student, null, challenger",
        ),
        ({"shadow_arm": "null"}, r"shadow_arm is null, .* name one that is served \(teacher, challenger\)"),
        ({"shadow_arm": "other"}, "shadow_arm is other"),
    ):
        with pytest.raises(UserError, match=message):
            change(kept, **given)
    alone = Kept(configured(arms=("student", "challenger"), split={"student": 1}))
    with pytest.raises(UserError, match="which needs teacher and student among arms"):
        change(alone, shadow=0.5)
    assert change(alone, shadow=0.5, shadow_arm="challenger").shadow == 0.5


def test_what_was_written_before_arms_had_names_is_of_the_same_settings(tmp_path: Path) -> None:
    uri = str(tmp_path / "experiment.json")
    change(Kept(configured(), uri), salt="t")
    stored = json.loads(Path(uri).read_text())
    assert stored["configured"] == {
        "arms": ["teacher", "student", "null"], "split": {"teacher": 0.1, "student": 0.9}, "salt": "s", "shadow": 0.0,
    }  # fmt: skip
    del stored["current"]["shadow_arm"]
    Path(uri).write_text(json.dumps(stored))
    assert Kept(configured(), uri, pytest.fail).current.salt == "t"
