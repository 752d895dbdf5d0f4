"""The prefix cache of the compiled kernel: `PrefixCache` in arrays, and the blocks of running requests.

Free blocks are a doubly linked list in the order of reuse. Labeled blocks are found through buckets: lists
through the blocks themselves, in the order of labeling, so that of several blocks with equal content the
first labeled one is found. The keys of a request's consecutive blocks fall into consecutive buckets.

A look into the cache is remembered, because the request at the head of the queue is looked up in every step
while it waits for memory: the blocks it found are marked, and what happens to a marked block, or to the key
that the look missed, corrects the look or voids it.
"""

from __future__ import annotations

from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.build import compile_part
from bidkv.simulator.vllm.compiled.layout import Array, BlockTables

_GOLDEN = -7046029254386353131
"""2**64 over the golden ratio, as a signed number: spreads content nodes evenly over the buckets."""


@compile_part
def find_bucket(buckets: Array, key: int) -> int:
    """Return the bucket of a key."""
    index = key & ((1 << at.INDEX_BITS) - 1)
    bucket: int = (_spread(key >> at.INDEX_BITS) + index) & (buckets.shape[0] - 1)
    return bucket


@compile_part
def _spread(node: int) -> int:
    """Return the bucket of a node's block with index 0, not yet folded into the number of buckets."""
    return (node * _GOLDEN) >> 24


@compile_part
def find_block(b: BlockTables, key: int) -> int:
    """`PrefixCache.find`: the block with this content that was labeled first; -1 for none."""
    block: int = _find_in_bucket(b, find_bucket(b.buckets, key), key)
    return block


@compile_part
def _find_in_bucket(b: BlockTables, bucket: int, key: int) -> int:
    block: int = b.buckets[bucket]
    while block >= 0 and b.keys[block] != key:
        block = b.bucket_next[block]
    return block


@compile_part
def _label_block(b: BlockTables, state: Array, block: int, key: int, bucket: int) -> None:
    """`PrefixCache.label`: `block` can be found by `key`, which is of this bucket, from now on."""
    b.keys[block] = key
    b.bucket_next[block] = -1
    last = b.buckets[bucket]
    if last < 0:
        b.buckets[bucket] = block
    else:
        while b.bucket_next[last] >= 0:
            last = b.bucket_next[last]
        b.bucket_next[last] = block
    if key == state[at.LOOKED_MISS]:
        void_look(state)


@compile_part
def void_look(state: Array) -> None:
    """What the last look found holds no longer."""
    state[at.LOOKED_SLOT] = -1
    state[at.LOOKED_MISS] = -1


@compile_part
def _forget_block(b: BlockTables, state: Array, block: int) -> None:
    """A free block is about to be reused: it can be found no longer."""
    key = b.keys[block]
    if key < 0:
        b.retained[block] = 0
        return
    b.keys[block] = -1
    state[at.RETAINED] -= b.retained[block]
    b.retained[block] = 0
    bucket = find_bucket(b.buckets, key)
    following = b.bucket_next[block]
    other = b.buckets[bucket]
    if other == block:
        b.buckets[bucket] = following
    else:
        while b.bucket_next[other] != block:
            other = b.bucket_next[other]
        b.bucket_next[other] = following
    if state[at.LOOKED_SLOT] >= 0 and b.looked[block] == state[at.LOOKED_MARK]:
        b.looked[block] = 0
        last = state[at.LOOKED_HITS] - 1
        if b.hits[last] == block and find_block(b, key) < 0:  # its last hit: the look is shorter by one
            state[at.LOOKED_HITS] = last
            state[at.LOOKED_FREE] -= 1
            state[at.LOOKED_MISS] = key
        else:
            void_look(state)


@compile_part
def take_block(b: BlockTables, state: Array) -> int:
    """`PrefixCache.take` of one block: the first of the free queue, for one request."""
    end = b.references.shape[0]
    block: int = b.queue_next[end]
    following = b.queue_next[block]
    b.queue_next[end] = following
    b.queue_previous[following] = end
    _forget_block(b, state, block)
    b.references[block] = 1
    state[at.FREE] -= 1
    return block


@compile_part
def _take_blocks(b: BlockTables, state: Array, held: Array, first: int, count: int) -> None:
    """`PrefixCache.take` of `count` blocks, which become those of a request from its block `first` on."""
    end = b.references.shape[0]
    block = b.queue_next[end]
    for index in range(first, first + count):
        following = b.queue_next[block]
        _forget_block(b, state, block)
        b.references[block] = 1
        held[index] = block
        block = following
    b.queue_next[end] = block
    b.queue_previous[block] = end
    state[at.FREE] -= count


@compile_part
def take_hits(table: Array, b: BlockTables, state: Array, slot: int) -> None:
    """`PrefixCache.touch`: the request in `slot`, just admitted, starts from what the last look found."""
    state[at.FREE_SEATS] -= 1
    seat = b.free_seats[state[at.FREE_SEATS]]
    table[at.SEAT, slot] = seat
    count = state[at.LOOKED_HITS]
    held = b.held[seat]
    for index in range(count):
        block = b.hits[index]
        held[index] = block
        if b.references[block] == 0:
            before, after = b.queue_previous[block], b.queue_next[block]
            b.queue_next[before] = after
            b.queue_previous[after] = before
            state[at.RETAINED] -= b.retained[block]
        b.references[block] += 1
    state[at.FREE] -= state[at.LOOKED_FREE]
    table[at.HELD, slot] = count
    table[at.LABELED, slot] = count
    void_look(state)


@compile_part
def release_blocks(table: Array, b: BlockTables, state: Array, slot: int, session_goes_on: bool) -> None:
    """`PrefixCache.release`, rule 17: the request in `slot` holds no blocks any more; its seat is unused.

    The blocks of a session that goes on are marked; of one that does not, shared blocks stay as they are.
    """
    following, previous, retained = b.queue_next, b.queue_previous, b.retained
    end, mark = b.references.shape[0], state[at.LOOKED_MARK]
    held = b.held[table[at.SEAT, slot]]
    first_marked = 0 if session_goes_on else table[at.SHARED, slot]
    front = end  # blocks without a key go behind this one, the first of them to the very front
    last = previous[end]
    freed, freed_retained = 0, 0
    for index in range(table[at.HELD, slot] - 1, -1, -1):
        block = held[index]
        if index >= first_marked:
            retained[block] = session_goes_on
        references = b.references[block] - 1
        b.references[block] = references
        if references:
            continue
        freed += 1
        if b.keys[block] >= 0:
            freed_retained += retained[block]
            following[last] = block
            previous[block] = last
            following[block] = end
            last = block
        else:
            after = following[front]
            following[front] = block
            previous[block] = front
            following[block] = after
            if after == end:
                last = block
            else:
                previous[after] = block
            front = block
        if b.looked[block] == mark:
            void_look(state)
    previous[end] = last
    state[at.FREE] += freed
    state[at.RETAINED] += freed_retained
    b.free_seats[state[at.FREE_SEATS]] = table[at.SEAT, slot]
    state[at.FREE_SEATS] += 1
    table[at.HELD, slot] = 0
    table[at.LABELED, slot] = 0


@compile_part
def allocate(table: Array, b: BlockTables, state: Array, slot: int, count: int, end: int) -> None:
    """Give the request in `slot` `count` more blocks, for its positions up to `end`."""
    if not state[at.CACHING]:
        state[at.FREE] -= count
        table[at.HELD, slot] += count
        return
    if count > 0:
        first = table[at.HELD, slot]
        _take_blocks(b, state, b.held[table[at.SEAT, slot]], first, count)
        table[at.HELD, slot] = first + count
    label_up_to(table, b, state, slot, min(end, table[at.TOKENS, slot]))


@compile_part
def label_up_to(table: Array, b: BlockTables, state: Array, slot: int, end: int) -> None:
    """Rule 15: full blocks of the request up to the position `end`, all known, can be found from now on."""
    size = state[at.BLOCK_SIZE]
    index, full = table[at.LABELED, slot], end // size
    if index >= full:
        return
    table[at.LABELED, slot] = full
    held = b.held[table[at.SEAT, slot]]
    first, count = table[at.FIRST_SEGMENT, slot], table[at.SEGMENT_COUNT, slot]
    segment = count
    while segment > 0 and b.segments[0, first + segment - 1] >= (index + 1) * size:
        segment -= 1
    while index < full:
        while segment < count and b.segments[0, first + segment] < (index + 1) * size:
            segment += 1
        node, stop = table[at.LAST_NODE, slot], full
        if segment < count:
            node = b.segments[1, first + segment]
            stop = min(full, b.segments[0, first + segment] // size)
        key, bucket, folded = node << at.INDEX_BITS, _spread(node), b.buckets.shape[0] - 1
        for position in range(index, stop):
            _label_block(b, state, held[position], key + position, (bucket + position) & folded)
        index = stop


@compile_part
def look_up(table: Array, b: BlockTables, state: Array, slot: int) -> None:
    """Rule 14: find the cached blocks the request in `slot` can start from; its last token is computed."""
    tokens, size = table[at.TOKENS, slot], state[at.BLOCK_SIZE]
    if state[at.LOOKED_SLOT] == slot and state[at.LOOKED_TOKENS] == tokens:
        return
    state[at.LOOKED_SLOT] = slot
    state[at.LOOKED_TOKENS] = tokens
    state[at.LOOKED_MISS] = -1
    mark = state[at.LOOKED_MARK] + 1
    state[at.LOOKED_MARK] = mark
    first, count = table[at.FIRST_SEGMENT, slot], table[at.SEGMENT_COUNT, slot]
    index, free, segment = 0, 0, 0
    usable = (tokens - 1) // size
    while index < usable:
        while segment < count and b.segments[0, first + segment] < (index + 1) * size:
            segment += 1
        node, stop = table[at.LAST_NODE, slot], usable
        if segment < count:
            node = b.segments[1, first + segment]
            stop = min(usable, b.segments[0, first + segment] // size)
        bucket, folded = _spread(node), b.buckets.shape[0] - 1
        while index < stop:
            key = (node << at.INDEX_BITS) + index
            block = _find_in_bucket(b, (bucket + index) & folded, key)
            if block < 0:
                state[at.LOOKED_MISS] = key
                usable = index
                break
            b.hits[index] = block
            b.looked[block] = mark
            if b.references[block] == 0:
                free += 1
            index += 1
    state[at.LOOKED_HITS] = index
    state[at.LOOKED_FREE] = free


@compile_part
def count_private(table: Array, b: BlockTables, slot: int) -> int:
    """`PrefixCache.count_private`: blocks that preempting the running request in `slot` would free."""
    held, references = b.held[table[at.SEAT, slot]], b.references
    private = 0
    for index in range(table[at.HELD, slot]):
        if references[held[index]] == 1:
            private += 1
    return private


@compile_part
def reuse_first(b: BlockTables, state: Array, key: int) -> int:
    """`PrefixCache.reuse_first` of one key: its free blocks are reused before all others."""
    end = b.references.shape[0]
    moved = 0
    block = b.buckets[find_bucket(b.buckets, key)]
    while block >= 0:
        if b.keys[block] == key and b.references[block] == 0:
            before, after = b.queue_previous[block], b.queue_next[block]
            b.queue_next[before] = after
            b.queue_previous[after] = before
            first = b.queue_next[end]
            b.queue_next[end] = block
            b.queue_previous[block] = end
            b.queue_next[block] = first
            b.queue_previous[first] = block
            state[at.RETAINED] -= b.retained[block]
            b.retained[block] = 0
            moved += 1
        block = b.bucket_next[block]
    return moved
