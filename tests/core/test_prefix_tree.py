"""The radix tree of session pasts against a plain model: a list of keys a session, recounted every time."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from bidkv.control.prefix_tree import PrefixTree

_LETTERS = st.lists(st.sampled_from("ab"), max_size=6)
_ACTIONS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["move", "cut", "hold", "drop"]), _LETTERS))


def _chain(letters: list[str]) -> list[str]:
    """Keys that name everything before them, as block hashes do."""
    return ["".join(letters[: index + 1]) for index in range(len(letters))]


@given(_ACTIONS)
@settings(max_examples=300)
def test_tree_agrees_with_recounting(actions: list[tuple[int, str, list[str]]]) -> None:
    tree = PrefixTree()
    leaves = [tree.root] * 4
    pasts: list[list[str]] = [[], [], [], []]
    held: list[tuple[object, list[str]]] = []
    for who, action, letters in actions:
        if action == "move":
            chain = _chain(letters)
            leaves[who], stale = tree.move(leaves[who], chain, len(chain))
            others = {key for other, past in enumerate(pasts) if other != who for key in past}
            in_use = others | set(chain) | {key for _, keys in held for key in keys}
            assert not set(stale) & in_use
            assert set(stale) <= set(pasts[who])
            pasts[who] = chain
        elif action == "cut":
            length = min(len(letters), len(pasts[who]))
            upper = tree.cut(leaves[who], length)
            assert upper.end == length
            tree.hand_over(leaves[who], upper)
            leaves[who] = upper
            pasts[who] = pasts[who][:length]
        elif action == "hold":
            tree.hold(leaves[who])
            held.append((leaves[who], pasts[who]))
        elif held:
            leaf, _ = held.pop(len(letters) % len(held))
            tree.release(leaf)  # type: ignore[arg-type]
        owners = Counter(key for past in pasts for key in past)
        referenced = {key for _, keys in held for key in keys}
        assert tree.retained_blocks == len(set(owners) - referenced)
        assert len(tree) == len(set(owners) | referenced)
        for leaf, past in zip(leaves, pasts, strict=True):
            assert leaf.end == len(past)
            assert tree.count_exclusive(leaf) <= sum(owners[key] == 1 for key in past)
            matched, node = tree.find(past)
            assert matched == len(past)
            assert node.end >= matched


def test_a_run_that_was_shared_is_not_given_up_with_its_last_owner() -> None:
    tree = PrefixTree()
    first, _ = tree.move(tree.root, ["s", "s1", "a1"], 3)
    second, _ = tree.move(tree.root, ["s", "s1", "b1", "b2"], 4)
    assert tree.retained_blocks == 5
    assert tree.count_exclusive(first) == 1
    assert tree.count_exclusive(second) == 2
    assert tree.hand_over(first, tree.root) == ["a1"]
    assert tree.hand_over(second, tree.root) == ["b1", "b2"]
    assert tree.retained_blocks == 0
    assert len(tree) == 0
