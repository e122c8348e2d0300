"""The titles of a catalogue as a tree of tokens, so that generation can be kept to them.

Legend: M nodes, E edges.
"""

from collections.abc import Iterable, Sequence

import numpy as np


class TitleTrie:
    """A tree whose root-to-leaf paths are token sequences; node 0 is the root. Memory: 16 bytes a node and an edge."""

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        children: list[dict[int, int]] = [{}]
        for sequence in sequences:
            node = 0
            for token in sequence:
                if token not in children[node]:
                    children[node][token] = len(children)
                    children.append({})
                node = children[node][token]
        self._first = np.cumsum([0, *(len(edges) for edges in children)])  # [M+1]
        edges = [edge for node in children for edge in sorted(node.items())]
        self._tokens, self._nodes = np.array(edges, dtype=np.int64).reshape(-1, 2).T  # [E] each
        self._keys = np.repeat(np.arange(len(children)), np.diff(self._first)) << 32 | self._tokens

    def allowed(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that may follow each node.

        Returns:
            which: [A] int64 indices into `nodes`, ascending; tokens: [A] int64.
        """
        count = self._first[nodes + 1] - self._first[nodes]
        which = np.repeat(np.arange(len(nodes)), count)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return which, self._tokens[np.repeat(self._first[nodes], count) + within]

    def step(self, nodes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The node that each token leads to; the root where it leads nowhere."""
        keys = nodes << 32 | tokens
        edge = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[edge] == keys, self._nodes[edge], 0)
