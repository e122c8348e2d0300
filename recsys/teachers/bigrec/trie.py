"""The titles of a catalogue as a tree of tokens, so that generation can be kept to them.

Legend: M nodes, E edges.
"""

from collections.abc import Sequence

import numpy as np


class TitleTrie:
    """A tree whose root-to-leaf paths are token sequences; node 0 is the root. Memory: 32 bytes an edge."""

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        parents, tokens, nodes, made = [], [], [], 1
        reached = np.zeros(len(sequences), dtype=np.int64)  # where each sequence is in the tree, level by level
        for level in range(max(map(len, sequences))):
            longer = np.array([i for i, sequence in enumerate(sequences) if len(sequence) > level])
            keys = reached[longer] << 32 | np.array([sequences[i][level] for i in longer])
            distinct, of_sequence = np.unique(keys, return_inverse=True)
            reached[longer] = made + of_sequence
            parents.append(distinct >> 32)
            tokens.append(distinct & 0xFFFFFFFF)
            nodes.append(np.arange(made, made + len(distinct)))
            made += len(distinct)
        # Parents are numbered level by level, so that edges are in the order of their keys already.
        parent = np.concatenate(parents)
        self._tokens, self._nodes = np.concatenate(tokens), np.concatenate(nodes)  # [E] each
        self._keys = parent << 32 | self._tokens
        self._first = np.searchsorted(parent, np.arange(made + 1))  # [M+1]

    def list_allowed(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
