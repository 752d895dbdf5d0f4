"""What the state machines did in this session; printed at its end."""

from collections import Counter, defaultdict

TALLY: defaultdict[str, Counter[str]] = defaultdict(Counter)
