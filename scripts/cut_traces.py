"""Cut the slices that ship with the package out of the full public traces (NOTICE names their sources).

Usage: python scripts/cut_traces.py FOLDER, which holds the four originals under the names below.
Every slice is either the head of its trace, so that arrivals and prefixes stay whole, or every tenth row.
"""

import sys
from pathlib import Path

DATA = Path(__file__).parents[1] / "src/bidkv/workloads/traces/data"


def head(source: Path, target: str, lines: int) -> None:
    rows = source.read_text().splitlines()[:lines]
    # Without blanks the JSON is a tenth smaller; the CSV has one that belongs to its timestamps.
    compact = [row.replace(" ", "") if row.startswith("{") else row for row in rows]
    (DATA / target).write_text("\n".join(compact) + "\n")


def every_tenth_length(source: Path, target: str) -> None:
    header, *rows = source.read_text().splitlines()
    lengths = [",".join(row.split(",")[:2]) for row in [header, *rows[::10]]]
    (DATA / target).write_text("\n".join(lengths) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    head(folder / "AzureLLMInferenceTrace_conv.csv", "azure-conv-2000.csv", 2001)
    head(folder / "mooncake_conversation_trace.jsonl", "mooncake-conv-2000.jsonl", 2000)
    every_tenth_length(
        folder / "etalon_sharegpt_8k_filtered_stats_llama2_tokenizer.csv", "sharegpt-lengths-3074.csv"
    )
    every_tenth_length(
        folder / "vidur_arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv", "arxiv-lengths-2826.csv"
    )
