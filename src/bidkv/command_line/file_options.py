"""Options that state what a trace does not say itself, declared once for every program that reads traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from bidkv.command_line.declared import valued

TimeUnit = Annotated[
    str | None, valued("s|ms|us|ns", "Unit of the trace's timestamps, where the format does not fix it.")
]
TokensPerHashId = Annotated[
    int | None, valued("N", "Prompt tokens that one of the trace's hash ids stands for.")
]
Columns = Annotated[
    str | None,
    valued(
        "ROLE=NAME,...",
        "Columns of a table whose format is unknown: time=start,prompt=in_tokens,output=out_tokens.",
    ),
]
TokensPerImage = Annotated[
    int | None, valued("N", "Prompt tokens of one image, in traces that count images.")
]
CharactersPerToken = Annotated[
    float | None,
    valued("N", "Estimate the tokens of texts by their length; 4 suits English."),
]
Tokenizer = Annotated[str | None, valued("FILE", "Count the tokens of texts with a tokenizer.json.")]
InputLengths = Annotated[
    str | None,
    valued("new|whole", "Whether a turn's input_length counts its new tokens or the whole prompt."),
]
AnswerTokensPerS = Annotated[
    float | None,
    valued(
        "N",
        "Speed of recorded answers. Their time is subtracted from the gaps between turns, for a trace that "
        "has arrivals only.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What a command line states about a trace that it does not say itself; None leaves it open."""

    time_unit: TimeUnit = None
    tokens_per_hash_id: TokensPerHashId = None
    columns: Columns = None
    tokens_per_image: TokensPerImage = None
    characters_per_token: CharactersPerToken = None
    tokenizer: Tokenizer = None
    input_lengths: InputLengths = None
    answer_tokens_per_s: AnswerTokensPerS = None

    def statements(self) -> dict[str, Any]:
        """Return what was stated, by name."""
        values = {name: getattr(self, name) for name in FileOptions.__dataclass_fields__}
        return {name: value for name, value in values.items() if value is not None}
