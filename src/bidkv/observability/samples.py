"""One reading of a server's /metrics pages, and what changed since the reading before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bidkv.observability.prometheus_page import get_text, parse_page


@dataclass(frozen=True, slots=True)
class Samples:
    """What the pages said.

    Attributes:
        at_s: when they were read, in seconds.
        values: sample name to value, summed over labels (one server has few of them).
        labels: sample name to the labels of one of its samples.
        buckets: histogram name to (upper bound, cumulative count), ascending.
    """

    at_s: float
    values: Mapping[str, float]
    labels: Mapping[str, Mapping[str, str]]
    buckets: Mapping[str, Sequence[tuple[float, float]]]

    def get(self, *names: str) -> float | None:
        """Return the first of `names` that is there and a number."""
        for name in names:
            value = self.values.get(name, math.nan)
            if not math.isnan(value):
                return value
        return None

    def rate(self, before: Samples, *names: str) -> float | None:
        """Return by how much the first of `names` grows a second; None where it is unknown."""
        for name in names:
            if name in self.values and name in before.values and self.at_s > before.at_s:
                # A counter that fell belongs to a server that started anew.
                return max(0.0, self.values[name] - before.values[name]) / (self.at_s - before.at_s)
        return None

    def quantile(self, name: str, share: float) -> float | None:
        """Return the upper bound of the bucket that holds the quantile, since the server's start."""
        bounds = self.buckets.get(name, ())
        total = bounds[-1][1] if bounds else 0.0
        if not total:
            return None
        # The last bucket holds every count, unless a foreign page's counts make no sense.
        return next((bound for bound, count in bounds if count >= share * total), None)


def parse_samples(pages: Iterable[str], at_s: float) -> Samples:
    """Read the text of /metrics pages.

    Raises:
        ValueError: a page is not in Prometheus' text format.
    """
    values: dict[str, float] = {}
    labels: dict[str, Mapping[str, str]] = {}
    buckets: dict[str, dict[float, float]] = {}
    for page in pages:
        for sample in parse_page(page):
            if not sample.name.endswith("_bucket"):
                values[sample.name] = values.get(sample.name, 0.0) + sample.value
                labels[sample.name] = sample.labels
                continue
            try:
                bound = float(sample.labels["le"])
            except (KeyError, ValueError):
                raise ValueError(f"{sample.name[:60]}: expected a label le with a number") from None
            counts = buckets.setdefault(sample.name.removesuffix("_bucket"), {})
            counts[bound] = counts.get(bound, 0.0) + sample.value
    return Samples(at_s, values, labels, {name: sorted(counts.items()) for name, counts in buckets.items()})


def fetch_samples(urls: Sequence[str], at_s: float) -> Samples:
    """Fetch and read pages.

    Raises:
        OSError: no answer from one of the addresses.
        ValueError: an address or a page makes no sense.
    """
    return parse_samples([get_text(url) for url in urls], at_s)
