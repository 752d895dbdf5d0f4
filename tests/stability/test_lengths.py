import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidkv.stability import EmpiricalLaw, UniformLaw, memory_demand
from bidkv.stability.published import ROWS, table


def stepwise_demand(prompt: int, output: int, chunk: int) -> int:
    """Resident tokens summed batch by batch, with no formula."""
    total = resident = 0
    while resident < prompt:
        resident = min(prompt, resident + chunk)
        total += resident
    for _ in range(output):
        resident += 1
        total += resident
    return total


LENGTHS = st.integers(1, 300)


@given(LENGTHS, LENGTHS, st.integers(1, 400))
def test_the_demand_is_the_sum_over_batches(prompt, output, chunk):
    assert memory_demand(prompt, output, chunk) == stepwise_demand(prompt, output, chunk)


@given(st.tuples(LENGTHS, LENGTHS), st.tuples(LENGTHS, LENGTHS), st.integers(1, 400))
def test_the_uniform_closed_form_equals_the_exact_sum(prompt, output, chunk):
    law = UniformLaw((min(prompt), max(prompt)), (min(output), max(output)))
    demands = [
        memory_demand(s, o, chunk)
        for s in range(law.prompt[0], law.prompt[1] + 1)
        for o in (law.output[0], law.output[1])
    ]
    # The demand is quadratic in o: the mean over the range follows from a sum over every o of one s.
    outputs = range(law.output[0], law.output[1] + 1)
    middle = math.fsum(memory_demand(law.prompt[0], o, chunk) for o in outputs) / len(outputs)
    if len(outputs) <= 2:
        exact = sum(demands) / len(demands)
    else:
        mean_output = sum(outputs) / len(outputs)
        prompts = range(law.prompt[0], law.prompt[1] + 1)
        base = memory_demand(law.prompt[0], 0, chunk) + law.prompt[0] * mean_output
        exact = (
            middle
            - base
            + math.fsum(memory_demand(s, 0, chunk) + s * mean_output for s in prompts) / len(prompts)
        )
    assert law.mean_memory_demand(chunk) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    "ranges", [((10, 160), (10, 160)), ((10, 213), (10, 106)), ((1, 1), (1, 1)), ((512, 513), (1, 9))]
)
def test_the_uniform_closed_form_equals_the_double_sum(ranges):
    (low, high), (first, last) = ranges
    pairs = [(s, o) for s in range(low, high + 1) for o in range(first, last + 1)]
    exact = math.fsum(stepwise_demand(s, o, 64) for s, o in pairs) / len(pairs)
    assert UniformLaw(*ranges).mean_memory_demand(64) == pytest.approx(exact, rel=1e-9)
    assert EmpiricalLaw.from_pairs(pairs).mean_memory_demand(64) == pytest.approx(exact, rel=1e-9)


def test_weights_count_as_repetitions():
    rng = random.Random(2)
    pairs = [(rng.randint(1, 900), rng.randint(1, 400)) for _ in range(50)]
    times = [rng.randint(1, 5) for _ in pairs]
    weighted = EmpiricalLaw(tuple(pairs), tuple(float(t) for t in times))
    repeated = EmpiricalLaw.from_pairs([p for p, t in zip(pairs, times, strict=True) for _ in range(t)])
    assert weighted.mean_memory_demand(512) == pytest.approx(repeated.mean_memory_demand(512), rel=1e-12)
    assert math.fsum(w for _, _, w in weighted.sample()) == pytest.approx(1.0)


def test_the_points_of_a_uniform_law_keep_its_means():
    law = UniformLaw((10, 1600), (10, 1066))
    points = law.sample()
    assert math.fsum(w for _, _, w in points) == pytest.approx(1.0)
    assert math.fsum(w * s for s, _, w in points) == pytest.approx(805.0)
    assert math.fsum(w * o for _, o, w in points) == pytest.approx(538.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: UniformLaw((0, 5), (1, 2)), "prompt must be"),
        (lambda: UniformLaw((1, 5), (3, 2)), "output must be"),
        (lambda: EmpiricalLaw(()), "at least one"),
        (lambda: EmpiricalLaw(((0, 1),)), "must be >= 1"),
        (lambda: EmpiricalLaw(((1, 1),), (0.0,)), "weights"),
        (lambda: EmpiricalLaw(((1, 1),), (1.0, 1.0)), "weights"),
        (lambda: memory_demand(1, 1, 0), "chunk_tokens"),
        (lambda: UniformLaw((1, 2), (1, 2)).mean_memory_demand(0), "chunk_tokens"),
    ],
)
def test_laws_reject_nonsense(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_published_predictions_imply_the_published_batch_times():
    implied = [round(1000.0 * row.implied_batch_s, 1) for row in ROWS if row.implied_batch_s is not None]
    assert implied == [37.2, 43.0, 33.7]
    assert [round(row.error_pct, 1) for row in ROWS] == [3.7, 8.4, 2.3, 8.0, 3.4]
    assert table().count("\n") == len(ROWS) + 1
