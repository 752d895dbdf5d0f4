"""How fast traces are read and workloads are made: rows a second, in `extra_info`."""

import pytest

from bidkv.workloads import available_workloads, generate
from bidkv.workloads.traces import read_trace, write_mooncake

ROWS = 200_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces")
    write_mooncake(generate("mixed", n=ROWS, rate_rps=10.0, seed=0), folder / "mooncake")
    with (folder / "azure").open("w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for row in range(ROWS):
            minute, second = divmod(row // 100, 60)
            hour, minute = divmod(minute, 60)
            file.write(f"2023-11-16 {hour:02}:{minute:02}:{second:02}.{row % 100:02}05900,374,44\n")
    with (folder / "lengths").open("w") as file:
        file.write("num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n")
        file.writelines("74,918,992,0.0806100217864923\n" for _ in range(ROWS))
    return folder


@pytest.mark.parametrize("kind", ["mooncake", "azure", "lengths"])
def test_reading(benchmark, folder, kind):
    rate_rps = 10.0 if kind == "lengths" else None
    rows = benchmark.pedantic(lambda: sum(1 for _ in read_trace(folder / kind, rate_rps=rate_rps)), rounds=3)
    assert rows == ROWS
    benchmark.extra_info["rows_per_s"] = round(ROWS / benchmark.stats.stats.min)


@pytest.mark.parametrize("name", available_workloads())
def test_generating(benchmark, name):
    rows = benchmark.pedantic(
        lambda: sum(1 for _ in generate(name, n=20_000, rate_rps=4.0, seed=0)), rounds=3
    )
    assert rows == 20_000
    benchmark.extra_info["rows_per_s"] = round(20_000 / benchmark.stats.stats.min)
