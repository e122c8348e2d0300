import numpy as np

from recsys.teachers.bigrec.trie import TitleTrie

SEQUENCES = [[5, 6, 9], [5, 6, 7, 9], [8, 9], [5, 6, 9]]


def test_every_path_is_a_sequence_and_every_sequence_a_path() -> None:
    trie = TitleTrie(SEQUENCES)
    found = []

    def walk(node: int, path: list[int]) -> None:
        _, tokens = trie.list_allowed(np.array([node]))
        if not len(tokens):
            found.append(path)
        for token in tokens.tolist():
            walk(int(trie.step(np.array([node]), np.array([token]))[0]), [*path, token])

    walk(0, [])
    assert sorted(found) == sorted([list(s) for s in {tuple(s) for s in SEQUENCES}])


def test_many_nodes_at_once() -> None:
    trie = TitleTrie(SEQUENCES)
    five = trie.step(np.array([0, 0]), np.array([5, 7]))
    assert five[1] == 0, "a token that leads nowhere leads to the root"
    which, tokens = trie.list_allowed(np.array([five[0], 0, 0]))
    assert which.tolist() == [0, 1, 1, 2, 2]
    assert tokens.tolist() == [6, 5, 8, 5, 8]
