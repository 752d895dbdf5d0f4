"""KV tokens of documented deployments beside those that are computed for them, as a table.

    python -m bidkv.planning.block_counts tests/data/deployments/deployments.json

The file holds `models` (config.json by name) and `deployments`: model, GPU, how the server was started, the
tokens that it logged as "GPU KV cache size", its version and where that is documented.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bidkv.profiles.analytic import ServerMemory, find_gpu, read_shape
from bidkv.profiles.kv_memory import count_kv


@dataclass(frozen=True, slots=True)
class BlockCount:
    """A deployment: the tokens its server logged, and those computed.

    Attributes:
        model: its name.
        gpu: name of its GPUs.
        server: how it was started.
        vllm: version.
        source: where the figure is documented.
        logged: tokens in the log.
        computed: tokens computed; 0 where the weights are taken not to fit.
    """

    model: str
    gpu: str
    server: ServerMemory
    vllm: str
    source: str
    logged: int
    computed: int

    @property
    def error(self) -> float:
        """Relative error of the computed figure."""
        return self.computed / self.logged - 1.0


def count_deployments(file: Path) -> list[BlockCount]:
    """Return the logged and the computed tokens of every deployment of a file, in its order.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON, or a model or a GPU in it is not supported.
        KeyError: a field is missing.
    """
    document = json.loads(file.read_text(encoding="utf-8"))
    shapes = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, config in document["models"].items():
            path = Path(folder) / f"{name}.json"
            path.write_text(json.dumps(config), encoding="utf-8")
            shapes[name] = read_shape(path)
    counts = []
    for row in document["deployments"]:
        server, gpu = ServerMemory(**row["server"]), find_gpu(row["gpu"])
        memory = count_kv(shapes[row["model"]], gpu.memory_bytes, server, has_nvlink=gpu.has_nvlink)
        counts.append(
            BlockCount(
                row["model"], row["gpu"], server, row["vllm"], row["source"], row["tokens"], memory.tokens
            )
        )
    return counts


def table(counts: Sequence[BlockCount]) -> str:
    """Return the deployments as a Markdown table; below it, how many are within 5 %."""
    sources = list(dict.fromkeys(count.source for count in counts))
    lines = [
        "| model | GPUs | utilization | KV type | context | vLLM | logged | computed | error | source |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for count in counts:
        server = count.server
        split = f", {server.pipeline_parallel} stages" if server.pipeline_parallel > 1 else ""
        longest = f"{server.max_model_len:,}" if server.max_model_len else "the model's"
        number = sources.index(count.source) + 1
        lines.append(
            f"| {count.model} | {server.gpus} x {count.gpu}{split} | {server.gpu_memory_utilization:g} | "
            f"{server.kv_cache_dtype} | {longest} | {count.vllm} | {count.logged:,} | {count.computed:,} | "
            f"{100 * count.error:+.1f} % | [{number}]({count.source}) |"
        )
    close = sum(abs(count.error) <= 0.05 for count in counts)
    lines += ["", f"{close} of {len(counts)} within 5 %."]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(count_deployments(Path(sys.argv[1]))))
