"""Lists and numbers as a user writes and reads them."""

import pytest

from bidkv.protocol.texts import plain_number, split_list


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (13333.4, 3, "13,333"),
        (9999.6, 4, "10,000"),
        (1104.62, 4, "1,105"),
        (999.96, 3, "1,000"),
        (1.3333, 3, "1.33"),
        (2.0, 3, "2"),
        (0.0, 3, "0"),
        (0.00001234, 3, "0.0000123"),
        (-13333.4, 3, "-13,333"),
        (1e20, 3, "1e+20"),
        (1e-12, 3, "1e-12"),
        (float("inf"), 3, "inf"),
    ],
)
def test_a_number_is_written_out(value: float, digits: int, text: str) -> None:
    assert plain_number(value, digits) == text


def test_a_list_is_split_at_commas() -> None:
    assert split_list(" fair , lcf:a=1;b=2") == ["fair", "lcf:a=1;b=2"]
    with pytest.raises(ValueError, match="found an empty one in 'fair,,lcf'"):
        split_list("fair,,lcf")
