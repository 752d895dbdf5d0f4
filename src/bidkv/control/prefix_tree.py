"""Which cached blocks belong to which sessions: a radix tree over block keys, shared prefixes stored once.

A key names the content of a block and of all blocks before it, so two chains of keys that agree at an index
agree everywhere before it. Every node holds a run of keys with the same owners. Operations cost O(depth) and
O(new keys); a session's depth is the number of places where other sessions branch off its past.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence


class PrefixNode:
    """A run of consecutive block keys. Only :class:`PrefixTree` changes it.

    Attributes:
        parent: the node before it; None for the root, which has no keys.
        keys: block keys of the run, in order.
        end: number of blocks from the start of the chain to the end of this run.
        owners: sessions whose past runs through this node.
        holders: running requests whose blocks run through this node.
        children: nodes that follow.
        was_shared: whether it ever had two owners.
    """

    __slots__ = ("children", "end", "holders", "keys", "owners", "parent", "was_shared")

    def __init__(self, parent: PrefixNode | None, keys: list[Hashable], end: int) -> None:
        self.parent = parent
        self.keys = keys
        self.end = end
        self.owners = 0
        self.holders = 0
        self.children = 0
        self.was_shared = False


class PrefixTree:
    """The pasts of all known sessions.

    Attributes:
        root: where every chain starts.
        retained_blocks: blocks with an owner that no running request holds.
    """

    def __init__(self) -> None:
        self.root = PrefixNode(None, [], 0)
        self.retained_blocks = 0
        self._node_by_key: dict[Hashable, PrefixNode] = {}

    def __len__(self) -> int:
        """Number of different blocks in the tree."""
        return len(self._node_by_key)

    # --- ownership -------------------------------------------------------------------------------
    def move(
        self, leaf: PrefixNode, chain: Sequence[Hashable], length: int
    ) -> tuple[PrefixNode, list[Hashable]]:
        """Make the first `length` keys of `chain` the past of the session whose past ends at `leaf`.

        Returns the node where the new past ends, and the keys of the old one that no session owns any more.
        """
        matched = self._count_known(chain, length, leaf)
        node = self._node_ending_at(chain, matched)
        if matched < length:
            new_keys = list(chain[matched:length])
            if node is leaf and node.owners == 1 and not node.holders and not node.children and node.keys:
                node.keys.extend(new_keys)
                node.end = length
                self.retained_blocks += len(new_keys)
            else:
                node.children += 1
                node = PrefixNode(node, new_keys, length)
            self._node_by_key.update(dict.fromkeys(new_keys, node))
        return node, self.hand_over(leaf, node)

    def hand_over(self, old: PrefixNode, new: PrefixNode) -> list[Hashable]:
        """A session's past ends at `new` instead of `old`; return the keys that no session owns any more.

        In order from the first block to the last. Runs that were shared once are left out: another session
        is likely to use them again, so they keep their place in the engine's free queue.
        """
        if new is old:
            return []
        old_path = set()
        node: PrefixNode | None = old
        while node is not None:
            old_path.add(node)
            node = node.parent
        common = new
        while common not in old_path:
            assert common.parent is not None  # the root is on every path
            if not common.owners:
                if not common.holders:
                    self.retained_blocks += len(common.keys)
            else:
                common.was_shared = True
            common.owners += 1
            common = common.parent
        runs: list[list[Hashable]] = []
        node = old
        while node is not common:
            parent = node.parent
            assert parent is not None
            if node.owners == 1 and not node.holders:
                self.retained_blocks -= len(node.keys)
            node.owners -= 1
            if self._remove_unused(node) and not node.was_shared:
                runs.append(node.keys)
            node = parent
        return [key for run in reversed(runs) for key in run]

    # --- running requests ------------------------------------------------------------------------
    def hold(self, leaf: PrefixNode) -> None:
        """A running request references the blocks up to `leaf`."""
        node: PrefixNode | None = leaf
        while node is not None and node.parent is not None:
            if node.owners and not node.holders:
                self.retained_blocks -= len(node.keys)
            node.holders += 1
            node = node.parent

    def release(self, leaf: PrefixNode) -> None:
        """A running request no longer references the blocks up to `leaf`."""
        node: PrefixNode | None = leaf
        while node is not None and node.parent is not None:
            parent = node.parent
            node.holders -= 1
            if node.owners and not node.holders:
                self.retained_blocks += len(node.keys)
            self._remove_unused(node)
            node = parent

    def _remove_unused(self, node: PrefixNode) -> bool:
        if node.owners or node.holders or node.children or node.parent is None:
            return False
        for key in node.keys:
            del self._node_by_key[key]
        node.parent.children -= 1
        return True

    # --- questions -------------------------------------------------------------------------------
    def find(self, chain: Sequence[Hashable]) -> tuple[int, PrefixNode]:
        """Return how many leading keys of `chain` are known, and the node that holds the last of them."""
        matched = self._count_known(chain, len(chain), self.root)
        return matched, self._node_by_key[chain[matched - 1]] if matched else self.root

    def count_exclusive(self, leaf: PrefixNode) -> int:
        """Return how many blocks only the session that ends at `leaf` owns, and no request holds."""
        count = 0
        node: PrefixNode | None = leaf
        while node is not None and node.owners == 1 and node.parent is not None:
            if not node.holders and not node.was_shared:
                count += len(node.keys)
            node = node.parent
        return count

    def cut(self, leaf: PrefixNode, length: int) -> PrefixNode:
        """Return the node on the way to `leaf` that ends after `length` blocks, splitting one if needed."""
        node = leaf
        while node.parent is not None and node.parent.end >= length:
            node = node.parent
        return node if node.end <= length else self._split(node, length)

    # --- helpers ---------------------------------------------------------------------------------
    def _count_known(self, chain: Sequence[Hashable], length: int, leaf: PrefixNode) -> int:
        """How many of the first `length` keys are in the tree; `leaf` is a guess where they end."""
        known = self._node_by_key
        low = 0
        if leaf.keys and leaf.end <= length and chain[leaf.end - 1] == leaf.keys[-1]:
            low = leaf.end
            if low == length or chain[low] not in known:
                return low
        high = length
        while low < high:
            middle = (low + high + 1) // 2
            if chain[middle - 1] in known:
                low = middle
            else:
                high = middle - 1
        return low

    def _node_ending_at(self, chain: Sequence[Hashable], length: int) -> PrefixNode:
        if not length:
            return self.root
        node = self._node_by_key[chain[length - 1]]
        return node if node.end == length else self._split(node, length)

    def _split(self, node: PrefixNode, length: int) -> PrefixNode:
        """Put the part of `node` up to `length` blocks into a new node before it, and return that."""
        place = length - (node.end - len(node.keys))
        upper = PrefixNode(node.parent, node.keys[:place], length)
        upper.owners, upper.holders, upper.was_shared = node.owners, node.holders, node.was_shared
        upper.children = 1
        node.parent = upper
        del node.keys[:place]
        for key in upper.keys:
            self._node_by_key[key] = upper
        return upper
