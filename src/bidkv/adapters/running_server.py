"""What a running vLLM server tells of its own size, over HTTP: enough to simulate it or to plan with it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from bidkv.observability.prometheus_page import PageSample, get_text, parse_page

_CACHE_INFO = "vllm:cache_config_info"
UNTOLD = ("max_num_seqs", "max_num_batched_tokens")
"""Options that no page of a vLLM server shows."""


class ServerUnreadable(Exception):
    """Nothing answers at the address, or what answers is not a vLLM server; the message says which."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server's own account of itself.

    Attributes:
        version: vLLM's, as its /version page has it.
        num_gpu_blocks: KV blocks, the null block included.
        block_size: tokens per block.
        enable_prefix_caching: whether it shares blocks between equal prefixes.
        max_model_len: longest prompt and output together.
    """

    version: str
    num_gpu_blocks: int
    block_size: int
    enable_prefix_caching: bool
    max_model_len: int

    def __str__(self) -> str:
        caching = "on" if self.enable_prefix_caching else "off"
        return (
            f"vLLM {self.version}, {self.num_gpu_blocks:,} KV blocks of {self.block_size} tokens, prefix "
            f"caching {caching}, requests of at most {self.max_model_len:,} tokens"
        )


def read_running_server(url: str) -> RunningServer:
    """Ask a server for its version, its cache (/metrics) and its longest request (/v1/models).

    Args:
        url: its address, such as http://127.0.0.1:8000.

    Raises:
        ServerUnreadable: no answer, or no vLLM server.
    """
    address = url.rstrip("/") if "://" in url else f"http://{url.rstrip('/')}"
    try:
        samples = list(parse_page(get_text(f"{address}/metrics")))
        version = json.loads(get_text(f"{address}/version"))["version"]
        longest = json.loads(get_text(f"{address}/v1/models"))["data"][0]["max_model_len"]
        return _read(samples, str(version), int(longest))
    except OSError as error:
        raise ServerUnreadable(f"{address}: {getattr(error, 'reason', None) or error}") from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ServerUnreadable(f"{address}: expected a vLLM server's pages ({str(error)[:120]})") from error


def _read(samples: list[PageSample], version: str, longest: int) -> RunningServer:
    told = [sample.labels for sample in samples if sample.name == _CACHE_INFO]
    if not told:
        raise ValueError(f"/metrics has no {_CACHE_INFO}")
    # One row for each data-parallel engine; all are of one configuration.
    labels = told[0]
    return RunningServer(
        version=version,
        num_gpu_blocks=_count(labels["num_gpu_blocks"]),
        block_size=_count(labels["block_size"]),
        enable_prefix_caching=labels["enable_prefix_caching"] == "True",
        max_model_len=longest,
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"expected a number of at least 1, got {text[:40]!r}")
    return int(text)
