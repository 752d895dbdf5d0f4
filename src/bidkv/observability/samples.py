"""One look at the /metrics pages of a server, and what changed since the look before."""

from __future__ import annotations

import math
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Samples:
    """What the pages said.

    Attributes:
        at_s: when.
        values: sample name to value, summed over labels (one server has few, and all its own).
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
        """Return how fast the first of `names` grows, a second; None where it cannot be said."""
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
        # The last bucket holds everybody, unless somebody else's counts make no sense.
        return next((bound for bound, count in bounds if count >= share * total), None)


def samples_of(pages: Iterable[str], at_s: float) -> Samples:
    """Read the text of /metrics pages.

    Raises:
        ValueError: a page is not in Prometheus' text format.
    """
    values: dict[str, float] = {}
    labels: dict[str, Mapping[str, str]] = {}
    buckets: dict[str, dict[float, float]] = {}
    try:
        for page in pages:
            for family in text_string_to_metric_families(page):
                for sample in family.samples:
                    if sample.name.endswith("_bucket"):
                        counts = buckets.setdefault(family.name, {})
                        bound = float(sample.labels["le"])
                        counts[bound] = counts.get(bound, 0.0) + float(sample.value)
                    else:
                        values[sample.name] = values.get(sample.name, 0.0) + float(sample.value)
                        labels[sample.name] = sample.labels
    except (ValueError, KeyError, IndexError, OverflowError) as error:  # what its parser raises, by the input
        raise ValueError(f"expected Prometheus' text format ({str(error)[:100]})") from error
    return Samples(at_s, values, labels, {name: sorted(counts.items()) for name, counts in buckets.items()})


def read_samples(urls: Sequence[str], at_s: float) -> Samples:
    """Fetch and read pages.

    Raises:
        OSError: nobody answers at one of the addresses.
        ValueError: an address or a page makes no sense.
    """
    # A proxy of the environment is for other machines.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    pages = []
    for url in urls:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            pages.append(answer.read().decode(errors="replace"))
    return samples_of(pages, at_s)
