"""How close every figure of a simulated run is meant to be to the real one's: relative, the tax in points."""

AIMS = {
    "throughput_rps": 0.02,
    "e2e_mean_s": 0.05,
    "e2e_p99_s": 0.05,
    "ttft_p50_s": 0.10,
    "ttft_p99_s": 0.10,
    "recompute_tax": 0.015,
}
