import math
import random

import pytest

from bidkv.stability import EmpiricalLaw, LengthSketch


def drawn(count, seed=1):
    rng = random.Random(seed)
    return [
        (1 + int(rng.lognormvariate(6.0, 1.2)), 1 + int(rng.lognormvariate(5.0, 0.8))) for _ in range(count)
    ]


def test_the_sketch_keeps_the_memory_demand_of_the_law():
    pairs = drawn(20_000)
    sketch = LengthSketch(window_s=math.inf)
    for prompt, output in pairs:
        sketch.update(prompt, output, at_s=0.0)
    law = sketch.get()
    assert len(law.pairs) < 1500
    assert law.draws == 20_000
    exact = EmpiricalLaw.of(pairs).mean_memory_demand(512)
    assert law.mean_memory_demand(512) == pytest.approx(exact, rel=0.01)


def test_old_lengths_are_forgotten_even_over_ages():
    sketch = LengthSketch(window_s=10.0)
    for i in range(200):
        sketch.update(8000, 10, at_s=float(i))
    for i in range(200):
        sketch.update(100, 50, at_s=5000.0 + i)
    assert sketch.get().pairs == ((100, 50),)
    assert sketch.count == 400


def test_late_requests_weigh_as_their_age():
    sketch = LengthSketch(window_s=10.0)
    sketch.update(100, 10, at_s=100.0)
    sketch.update(5000, 10, at_s=90.0)
    weights = {s: w for s, _, w in sketch.get().sample()}
    assert weights[5000] / weights[100] == pytest.approx(math.exp(-1.0))


def test_it_says_when_it_has_not_seen_enough():
    sketch = LengthSketch(window_s=60.0)
    said = []
    for _ in range(12):
        sketch.update(100, 10, at_s=0.0)
        said.append(sketch.enough)
    assert said == [False] * 9 + [True] * 3
    with pytest.raises(ValueError, match="at least one"):
        LengthSketch().get()


@pytest.mark.parametrize(
    ("prompt", "output", "at_s"),
    [(0, 1, 0.0), (1, 0, 0.0), (2**25, 1, 0.0), (1, 1, math.nan), (1, 1, math.inf)],
)
def test_bad_input_is_refused(prompt, output, at_s):
    sketch = LengthSketch()
    with pytest.raises(ValueError, match="must be"):
        sketch.update(prompt, output, at_s)
    assert sketch.count == 0
