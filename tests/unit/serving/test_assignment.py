import hashlib
from dataclasses import replace

import pytest

from recsys.config import from_dict
from recsys.errors import UserError
from recsys.serving.assignment import ARMS, Arm, assign, order_arms, position
from recsys.settings import ServingConfig, Settings

USERS = [f"user-{n}" for n in range(4000)]
FIVE: dict[Arm, float] = {"teacher": 0.3, "student": 0.3, "challenger": 0.2, "rules": 0.1, "null": 0.1}


def test_position_is_the_hash_of_salt_and_id() -> None:
    digest = hashlib.sha256(b"ab-1\x00user-7").digest()
    assert position("user-7", "ab-1") == pytest.approx(int.from_bytes(digest, "big") / 2**256, abs=1e-12)
    assert all(0 <= position(user, "s") < 1 for user in USERS)


def test_a_user_stays_and_shares_hold() -> None:
    split: dict[Arm, float] = {"teacher": 0.2, "student": 0.7, "null": 0.1}
    arms = [assign(user, split, "s") for user in USERS]
    assert arms == [assign(user, dict(reversed(split.items())), "s") for user in USERS]
    for arm, share in split.items():
        assert arms.count(arm) / len(USERS) == pytest.approx(share, abs=0.03)  # four standard deviations


def test_a_changed_share_moves_only_the_users_at_its_border() -> None:
    before = [assign(user, {"teacher": 0.5, "student": 0.5}, "s") for user in USERS]
    after = [assign(user, {"teacher": 0.4, "student": 0.6}, "s") for user in USERS]
    moved = [(b, a) for b, a in zip(before, after, strict=True) if a != b]
    assert set(moved) == {("teacher", "student")}
    assert len(moved) / len(USERS) == pytest.approx(0.1, abs=0.02)


def test_another_salt_shuffles_anew() -> None:
    first, second = (
        [assign(user, {"teacher": 0.5, "student": 0.5}, salt) == "teacher" for user in USERS] for salt in ("a", "b")
    )
    both = sum(a and b for a, b in zip(first, second, strict=True))
    assert both / len(USERS) == pytest.approx(0.25, abs=0.03)


def test_an_arm_without_a_share_gets_nobody() -> None:
    assert {assign(user, {"teacher": 0, "student": 1, "null": 0}, "s") for user in USERS} == {"student"}


@pytest.mark.parametrize(
    ("serving", "message"),
    [
        ({"split": {"teacher": 0.5}}, r"serving: the shares of the split must add up to 1 \(got teacher 0.5\)"),
        ({"split": {"teacher": 1.5, "student": -0.5}}, "the share of student must be 0 or more"),
        ({"split": {}}, "add up to 1"),
        ({"split": {"teacher": float("nan"), "student": 1}}, r"serving\.split\.teacher: should be a finite number"),
        ({"split": {"techer": 1}}, "techer"),
        ({"arms": ["student", "null"]}, "split gives users to teacher, which is not one of arms"),
        ({"arms": ["teacher"], "split": {"teacher": 1}}, "default_arm student is not one of arms"),
        ({"scoring": "int8", "student_replicas": {"gpus": 1}}, "int8, which is for CPUs; set student_replicas.gpus=0"),
        (
            {
                "further_arms": {"a": {"model": "x", "in_ingress": True, "scoring": "int8"}},
                "student_replicas": {"gpus": 1},
            },
            "further_arms.a.scoring is int8, which is for CPUs; set student_replicas.gpus=0",
        ),
        ({"split": {"student": 1, "techer": 0}}, r"users to techer, .* one of arms \(teacher, student, null\)"),
        ({"arms": ["student", "challenger"]}, r"serving\.arms\.1: should be 'teacher', 'student' or 'null'"),
        ({"further_arms": {"null": {"model": "a"}}}, "a further arm cannot be called 'null'; choose another name"),
        ({"further_arms": {"none": {"model": "a"}}}, "a further arm cannot be called 'none'"),
        ({"further_arms": {"a b": {"model": "a"}}}, "'a b' cannot be a name"),
        ({"further_arms": {"a": {}}}, r"serving\.further_arms\.a\.model"),
        (
            {"further_arms": {"a": {"model": "x", "scoring": "int8", "replicas": {"gpus": 1}}}},
            "int8, which is for CPUs",
        ),
        ({"further_arms": {"a": {"model": "models:/x"}}}, "write models:/NAME@ALIAS or models:/NAME/NUMBER"),
        ({"further_arms": {"a": {"modle": "x"}}}, "did you mean model"),
        (
            {"further_arms": {"a": {"model": "x", "in_ingress": True, "replicas": {"cpus": 2}}}},
            "further_arms.a is in the ingress, whose replicas student_replicas describes",
        ),
        ({"fallback": "challenger"}, "fallback challenger cannot answer for another arm; known: student, none"),
        ({"shadow_arm": "student"}, r"shadow_arm is student, but .* name one that is served \(teacher\)"),
        ({"shadow_arm": "challenger"}, "shadow_arm is challenger, but an arm with a model"),
    ],
)
def test_a_split_that_cannot_be(serving: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_dict(Settings, {"serving": serving})
    assert "\n" not in str(caught.value)


def test_further_arms_stand_between_the_student_and_the_null_arm() -> None:
    assert order_arms(ARMS) == ["teacher", "student", "null"]
    assert order_arms(["b", "null", "a", "student", "teacher"]) == ["teacher", "student", "a", "b", "null"]


def test_users_of_the_three_arms_stay_whatever_arms_are_named_beside_them() -> None:
    """Against the rule written out: cumulative shares of teacher, student and null, as it was before arms had names."""
    split: dict[Arm, float] = {"teacher": 0.2, "student": 0.5, "null": 0.3}

    def expected(user: str) -> Arm:
        point = int.from_bytes(hashlib.sha256(f"ab-1\0{user}".encode()).digest(), "big") / 2**256
        return "teacher" if point < 0.2 else "student" if point < 0.7 else "null"

    arms = [assign(user, split, "ab-1") for user in USERS]
    assert arms == [expected(user) for user in USERS]
    more = {"challenger": 0.0, **split, "rules": 0.0}
    assert [assign(user, more, "ab-1") for user in USERS] == arms


@pytest.mark.parametrize(
    ("changed", "pairs"),
    [
        ({"student": 0.2, "challenger": 0.3}, {("student", "challenger")}),
        ({"challenger": 0.1, "rules": 0.2}, {("challenger", "rules")}),
        ({"rules": 0.0, "null": 0.2}, {("rules", "null")}),
        ({"challenger": 0.0, "rules": 0.3}, {("challenger", "rules")}),
        ({"teacher": 0.2, "student": 0.4}, {("teacher", "student")}),
    ],
)
def test_between_neighbours_only_as_many_users_move_as_must(
    changed: dict[Arm, float], pairs: set[tuple[Arm, Arm]]
) -> None:
    split = {**FIVE, **changed}
    before, after = ([assign(user, one, "s") for user in USERS] for one in (FIVE, split))
    moved = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert set(moved) == pairs
    must = sum(abs(split[arm] - share) for arm, share in FIVE.items()) / 2
    assert len(moved) / len(USERS) == pytest.approx(must, abs=0.02)
    for arm, share in split.items():
        assert after.count(arm) / len(USERS) == pytest.approx(share, abs=0.03)
    assert after == [assign(user, dict(reversed(split.items())), "s") for user in USERS]


def test_an_arm_that_comes_takes_users_of_its_neighbour_alone() -> None:
    before, after = {"teacher": 0.5, "student": 0.5}, {"teacher": 0.5, "student": 0.4, "rules": 0.1, "challenger": 0.0}
    pairs = {(assign(user, before, "s"), assign(user, after, "s")) for user in USERS}
    assert {pair for pair in pairs if pair[0] != pair[1]} == {("student", "rules")}, "past one without a share"


def test_further_arms_are_served_beside_the_three() -> None:
    ours = {"rules": {"model": "sequential-rules", "in_ingress": True}, "challenger": {"model": "sasrec"}}
    config = from_dict(
        ServingConfig, {"split": FIVE, "further_arms": ours, "default_arm": "rules", "fallback": "rules"}
    )
    assert config.served == config.experiment.arms == (*ARMS, "challenger", "rules")
    assert config.models.keys() == {"teacher", "student", "challenger", "rules"}
    assert config.models["rules"].replicas == replace(config.student_replicas, batch=8), "where it lives"
    assert from_dict(ServingConfig, {}).served == ARMS


def test_arms_can_be_left_out() -> None:
    config = from_dict(ServingConfig, {"arms": ["student", "null"], "split": {"student": 0.9, "null": 0.1}})
    assert config.arms == ("student", "null")
