from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bidkv.profiles import CostLine, Regime, StepTimeProfile, load_profile, profile_names
from bidkv.profiles.model import padded_tokens

coefficient = st.floats(min_value=1e-7, max_value=1e-4)


def _line(draw: st.DrawFn, base_s: float) -> CostLine:
    return CostLine(base_s, *(draw(coefficient) for _ in range(6)))


@st.composite
def profiles(draw: st.DrawFn) -> StepTimeProfile:
    bases = [draw(st.floats(min_value=1e-4, max_value=1e-1)) for _ in range(6)]
    regimes = [Regime(_line(draw, bases[2 * i]), _line(draw, bases[2 * i + 1])) for i in range(3)]
    limit = draw(st.sampled_from([0, 8, 64, 512]))
    return StepTimeProfile("drawn", "fitted", *regimes, 1e-4, limit, draw(st.booleans()))


@given(
    profiles(),
    st.integers(0, 2048),
    st.floats(0, 1e6),
    st.integers(0, 600),
    st.integers(0, 99_999),
    st.integers(0, 32),
)
def test_the_exposed_coefficients_evaluate_to_the_same_step(
    profile: StepTimeProfile, prefill: int, attention: float, decodes: int, context: int, prefills: int
) -> None:
    tokens = prefill + decodes
    limit = profile.prefill_graph_max_tokens if prefill else profile.graph_max_tokens
    regime = 2 if tokens > limit else 1 if prefill else 0
    features = (
        1,
        profile.padded[tokens] if regime < 2 else tokens,
        decodes,
        context,
        attention if prefill else 0,
        prefills if prefill else 0,
        1 if prefill and context > tokens else 0,
    )
    flat = profile.coefficients()
    lines = [flat[14 * regime + 7 * part : 14 * regime + 7 * part + 7] for part in (0, 1)]
    expected = max(sum(c * f for c, f in zip(line, features, strict=True)) for line in lines)
    if tokens == 0:
        expected = profile.empty_step_s
    assert abs(profile.step_s(prefill, attention, decodes, context, prefills) - expected) <= 1e-12 * expected


def test_graph_sizes_are_those_vllm_captures() -> None:
    sizes = sorted({padded_tokens(n) for n in range(1, 513)})
    assert sizes == [1, 2, 4, *range(8, 257, 8), *range(272, 513, 16)]


def test_an_engine_with_few_sequences_captures_smaller_graphs() -> None:
    profile = load_profile("h100-llama3.1-8b")
    small = profile.for_engine(max_num_seqs=32, max_num_batched_tokens=2048)
    assert (profile.graph_max_tokens, small.graph_max_tokens) == (512, 64)
    assert small.step_s(200, 2e4, 10, 5000) > profile.step_s(200, 2e4, 10, 5000)
    assert profile.for_engine(max_num_seqs=256, max_num_batched_tokens=2048) is profile


def test_every_packaged_profile_grows_with_every_argument() -> None:
    for name in profile_names():
        profile = load_profile(name)
        assert profile.name == name
        assert profile.step_s(2048, 2e6, 0, 2048, 1) > profile.step_s(1024, 5e5, 0, 1024, 1)
        assert profile.step_s(0, 0.0, 256, 100_000) > profile.step_s(0, 0.0, 8, 100_000)
        assert profile.step_s(0, 0.0, 256, 200_000) > profile.step_s(0, 0.0, 256, 100_000)
        assert 0.0 <= profile.step_s(0, 0.0, 0, 0) < profile.step_s(0, 0.0, 1, 1)
