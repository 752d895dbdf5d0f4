import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidkv.stability import QuantizationAdvisor, blocks_at_bits


@pytest.mark.parametrize(
    ("rho", "bits"),
    [(0.0, 16), (0.6999, 16), (0.70, 8), (0.8499, 8), (0.85, 4), (0.95, 2), (7.0, 2), (math.inf, 2)],
)
def test_the_ladder(rho, bits):
    assert QuantizationAdvisor().advise(rho) == bits


@given(st.lists(st.floats(0.0, 1.2), max_size=50))
def test_advice_is_never_wider_than_the_load_allows_and_at_most_one_hysteresis_narrower(loads):
    advisor = QuantizationAdvisor(hysteresis=0.03)
    for rho in loads:
        bits = advisor.advise(rho)
        assert QuantizationAdvisor().advise(rho + 0.03) <= bits <= QuantizationAdvisor().advise(rho)


def test_a_trembling_load_does_not_flap():
    advisor = QuantizationAdvisor()
    assert [advisor.advise(rho) for rho in (0.86, 0.84, 0.86, 0.83, 0.84)] == [4] * 5
    assert advisor.advise(0.81) == 8


@pytest.mark.parametrize("bad", [-0.1, math.nan])
def test_bad_loads_are_refused(bad):
    with pytest.raises(ValueError, match="rho must be"):
        QuantizationAdvisor().advise(bad)


def test_narrower_values_hold_more_blocks():
    assert blocks_at_bits(600, 16, 4) == 2400
    with pytest.raises(ValueError, match="bits_now"):
        blocks_at_bits(600, 0, 4)
    with pytest.raises(ValueError, match="hysteresis"):
        QuantizationAdvisor(hysteresis=-0.1)
