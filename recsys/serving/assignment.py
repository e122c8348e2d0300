"""Which arm of the experiment a user gets."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

Arm = str
"""The name of an arm."""
BuiltIn = Literal["teacher", "student", "null"]
ARMS: tuple[BuiltIn, ...] = get_args(BuiltIn)
"""The arms that need no description; configuration may name further ones beside them."""
Scoring = Literal["exact", "int8"]
"""How the model of an arm scores the catalogue (`recsys.serving.scoring`)."""
_PLACES = {"teacher": 0, "student": 1, "null": 3}


def check_split(split: Mapping[Arm, float]) -> None:
    """A split is shares that add up to 1; they are not normalised, so that a forgotten arm is noticed.

    Raises:
        ValueError: a share is negative or the sum is not 1.
    """
    negative = [arm for arm, share in split.items() if not share >= 0]
    if negative:
        raise ValueError(f"the share of {negative[0]} must be 0 or more (got {split[negative[0]]})")
    total = sum(split.values())
    if not abs(total - 1) < 1e-6:
        shares = ", ".join(f"{arm} {share:g}" for arm, share in split.items()) or "none"
        raise ValueError(f"the shares of the split must add up to 1 (got {shares}); name every arm that gets users")


def position(user_id: str, salt: str) -> float:
    """A fixed number in [0, 1) for a user, by SHA-256 of salt and id; another salt shuffles all users anew."""
    digest = hashlib.sha256(f"{salt}\0{user_id}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: exact in a double, so never rounded up to 1


def order_arms(arms: Iterable[Arm]) -> list[Arm]:
    """Arms in the order in which they take their shares of the users: teacher, student, the further ones, null.

    Further ones go by name, because what carries a configuration need not keep the order of its keys.
    """
    return sorted(arms, key=lambda arm: (_PLACES.get(arm, 2), arm))


def assign(user_id: str, split: Mapping[Arm, float], salt: str) -> Arm:
    """The arm of a user: the same on every replica and after every restart, as long as split and salt stay.

    Arms take their shares of [0, 1) in the order of `order_arms`: when a share changes, only users at its border move,
    and an arm without a share is no border.
    """
    check_split(split)
    point, upper = position(user_id, salt), 0.0
    served = [arm for arm in order_arms(split) if split[arm] > 0]
    for arm in served:
        upper += split[arm]
        if point < upper:
            return arm
    return served[-1]  # the sum may fall short of 1 by rounding
