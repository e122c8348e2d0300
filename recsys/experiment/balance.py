"""Do the arms have the users that they should have? Where not, who compares them compares different people."""

from collections.abc import Mapping

import numpy as np
from scipy.stats import chisquare

LEAST_P = 0.001
"""Below it an experiment is invalid (Fabijan et al., "Diagnosing Sample Ratio Mismatch in Online Controlled
Experiments", KDD 2019). Looked at again and again it refuses a sound experiment more often than once in 1000."""


def compare_with_split(users: Mapping[str, int], split: Mapping[str, float]) -> float:
    """The p-value of the users that the arms have, by their shares of the split (chi-square).

    0 where an arm has users and no share; 1 where there is nothing to compare.

    Args:
        users: arm → users, each counted in the arm of the first request.
    """
    arms = [arm for arm, share in split.items() if share > 0]
    if any(count for arm, count in users.items() if arm not in arms):
        return 0.0
    counts = np.array([users.get(arm, 0) for arm in arms], dtype=float)
    shares = np.array([split[arm] for arm in arms])
    if len(arms) < 2 or not counts.sum():
        return 1.0
    return float(chisquare(counts, counts.sum() * shares / shares.sum()).pvalue)
