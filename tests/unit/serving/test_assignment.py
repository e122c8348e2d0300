import hashlib

import pytest

from recsys.config import from_dict
from recsys.errors import UserError
from recsys.serving.assignment import Arm, assign, position
from recsys.settings import ServingConfig, Settings

USERS = [f"user-{n}" for n in range(4000)]


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
    ],
)
def test_a_split_that_cannot_be(serving: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_dict(Settings, {"serving": serving})
    assert "\n" not in str(caught.value)


def test_arms_can_be_left_out() -> None:
    config = from_dict(ServingConfig, {"arms": ["student", "null"], "split": {"student": 0.9, "null": 0.1}})
    assert config.arms == ("student", "null")
