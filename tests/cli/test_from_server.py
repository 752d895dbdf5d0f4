"""`--from-server`: the size of a running server, read from its own pages over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

typer_testing = pytest.importorskip("typer.testing", reason="needs the [cli] extra")

from bidkv.cli.app import app  # noqa: E402

RUNNER = typer_testing.CliRunner()
_CACHE = {
    "block_size": "32",
    "cache_dtype": "auto",
    "enable_prefix_caching": "True",
    "engine": "0",
    "gpu_memory_utilization": "0.1",
    "num_gpu_blocks": "1200",
    "num_gpu_blocks_override": "None",
}
METRICS = f"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="tiny"}} 0.0
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{{",".join(f'{name}="{value}"' for name, value in _CACHE.items())}}} 1.0
"""
PAGES = {
    "/metrics": METRICS,
    "/version": json.dumps({"version": "0.32.0"}),
    "/v1/models": json.dumps({"data": [{"id": "tiny", "max_model_len": 8192}]}),
}
SMALL = ("--limit", "20", "--rate", "2")


@pytest.fixture
def pages() -> dict[str, str]:
    return dict(PAGES)


@pytest.fixture
def url(pages: dict[str, str]) -> Iterator[str]:
    """The address of a real HTTP server that serves the pages."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            self.send_response(200 if page is not None else 404)
            self.end_headers()
            self.wfile.write((page or "").encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_simulate_takes_the_servers_size_and_says_what_it_was_not_told(url: str) -> None:
    words = ["simulate", "--from-server", url, *SMALL, "--strategy", "fair", "--json", "-"]
    result = RUNNER.invoke(app, words)
    assert result.exit_code == 0, result.output
    config = json.loads(result.stdout)["config"]
    assert (config["num_gpu_blocks"], config["block_size"], config["max_model_len"]) == (1200, 32, 8192)
    assert config["enable_prefix_caching"] is True
    assert "vLLM 0.32.0, 1,200 KV blocks of 32 tokens, prefix caching on" in result.stderr
    assert "assumed: --max-num-seqs 256, --max-num-batched-tokens 2,048" in result.stderr


def test_what_is_stated_wins(url: str) -> None:
    words = ["--num-gpu-blocks", "900", "--max-num-seqs", "64", "--max-num-batched-tokens", "4096"]
    result = RUNNER.invoke(
        app, ["simulate", "--from-server", url, *words, *SMALL, "--strategy", "fair", "--json", "-"]
    )
    config = json.loads(result.stdout)["config"]
    assert (config["num_gpu_blocks"], config["block_size"], config["max_num_seqs"]) == (900, 32, 64)
    assert "assumed" not in result.stderr


def test_plan_takes_it_too(url: str) -> None:
    result = RUNNER.invoke(app, ["plan", "--from-server", url, "--limit", "50"])
    assert result.exit_code == 0, result.output
    assert "replica: 1,200 KV blocks, 256 sequences, 2,048 tokens a step" in result.stdout


@pytest.mark.parametrize("command", ["simulate", "plan"])
def test_nothing_answers(command: str) -> None:
    result = RUNNER.invoke(app, [command, "--from-server", "127.0.0.1:1"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("bidkv: error: --from-server: http://127.0.0.1:1: ")
    assert "refused" in line


@pytest.mark.parametrize("command", [["simulate", "--from-server"], ["top", "--once"]])
def test_a_file_is_no_server(command: list[str]) -> None:
    result = RUNNER.invoke(app, [*command, f"file://{__file__}"])
    assert result.exit_code == 2
    assert "expected an address that begins with http:// or https://" in result.stderr
    assert "pytest" not in result.stderr


@pytest.mark.parametrize(
    ("page", "content", "says"),
    [
        ("/metrics", "vllm:num_requests_running 0.0\n", "no vllm:cache_config_info"),
        ("/metrics", "<html>", "expected Prometheus' text format"),
        ("/metrics", METRICS.replace('"1200"', '"None"'), "expected a number of at least 1, got 'None'"),
        ("/version", "{}", "version"),
        ("/v1/models", '{"data": []}', "expected a vLLM server's pages"),
        ("/v1/models", None, "Not Found"),
    ],
)
def test_what_answers_is_no_vllm_server(
    url: str, pages: dict[str, str | None], page: str, content: str | None, says: str
) -> None:
    pages[page] = content
    result = RUNNER.invoke(app, ["simulate", "--from-server", url, *SMALL])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"bidkv: error: --from-server: {url}: ")
    assert says in line
