"""What the state machine did in this session; printed at its end."""

from collections import Counter

TALLY: Counter[str] = Counter()
