import hashlib

import pytest

from recsys.serving.assignment import ARMS, Arm, assign, order_arms, position

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
