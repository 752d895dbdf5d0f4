"""A server that speaks as vLLM with this project's plugin does, and misbehaves on request.

Run as a program: `python fake_server.py --port N [--token-s S] [--stall-at K --stall-s S --stall-log FILE]
[--fault KIND --faulty ID] [--log FILE]`. The log gets every request's id and body, and the answer's tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from aiohttp import web

BLOCKS, BLOCK_SIZE, MODEL_LEN = 100, 16, 1024


class FakeServer:
    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.policy = os.environ.get("BIDKV_STRATEGY", "")
        control = os.environ.get("BIDKV_CONTROL_FILE")
        self.control = Path(control) if control else None
        self.running = 0
        self.arrivals = 0
        self.steps = 0

    def obey(self) -> None:
        if self.control is not None and self.control.exists():
            self.policy = self.control.read_text().strip()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.obey()
        body = await request.json()
        self.arrivals += 1
        if self.arrivals == self.given.stall_at:
            began = time.monotonic()
            time.sleep(self.given.stall_s)  # the whole server stands still, on purpose
            Path(self.given.stall_log).write_text(json.dumps([began, time.monotonic()]))
        fault = self.given.fault if request.headers.get("X-Request-Id") == self.given.faulty else ""
        if fault == "die":
            os._exit(3)
        if fault == "http":
            return web.json_response({"error": "too many"}, status=503)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.running += 1
        answer = [100 + (self.arrivals + i) % 800 for i in range(int(body["max_tokens"]))]
        if self.given.log:
            with Path(self.given.log).open("a") as log:
                name = request.headers.get("X-Request-Id")
                log.write(json.dumps({"id": name, "body": body, "answer": answer}) + "\n")
        try:
            await self.stream(response, answer, fault, prompt=body.get("prompt"))
        finally:
            self.running -= 1
        return response

    async def stream(
        self, response: web.StreamResponse, answer: list[int], fault: str, prompt: list[int] | None
    ) -> None:
        sent, tokens = 0, len(answer)
        while sent < tokens:
            await asyncio.sleep(self.given.token_s)
            before, sent = sent, min(sent + 2, tokens)  # two tokens a chunk: chunks are not tokens
            self.steps += 1
            if fault == "short" and sent == tokens:
                sent -= 1
                tokens = sent
            new = answer[before:sent]
            usage: dict[str, Any] = {"completion_tokens": sent}
            if prompt is not None:
                usage |= {"prompt_tokens": len(prompt), "prompt_tokens_details": {"cached_tokens": 16}}
                choice: dict[str, Any] = {"text": "", "token_ids": new}
            else:
                choice = {"delta": {"content": "".join(f" a{token}" for token in new)}}
            await self.event(response, {"choices": [choice], "usage": usage})
            if fault == "error":
                await self.event(response, {"error": {"message": "out of luck"}})
                return
            if fault == "hang":
                await asyncio.sleep(3600)
        if fault != "no-done":
            await response.write(b"data: [DONE]\n\n")

    async def event(self, response: web.StreamResponse, content: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(content).encode() + b"\n\n")

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "fake", "max_model_len": MODEL_LEN}]})

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=f'vllm:cache_config_info{{block_size="{BLOCK_SIZE}",x="y"}} 1.0\n')

    async def exporter(self, request: web.Request) -> web.Response:
        name = self.policy.partition(":")[0].replace("_", "-")  # the one spelling, as engines report it
        lines = [
            f'bidkv_policy_active{{policy="{name}"}} 1.0',
            f"bidkv_arrivals_total {self.arrivals}.0",
            f"bidkv_admissions_total {self.arrivals}.0",
            f"bidkv_steps_total {self.steps}.0",
            f"bidkv_scheduled_tokens_total {2 * self.steps}.0",
            f"bidkv_decisions_total {self.arrivals}.0",
            f"bidkv_overrides_total {self.arrivals}.0",
            f"bidkv_preemptions_by_policy_total {self.arrivals}.0",
            f"bidkv_total_blocks {BLOCKS}.0",
            f"bidkv_free_blocks {BLOCKS - 10 * self.running}.0",
            f"bidkv_running_requests {self.running}.0",
            "bidkv_waiting_requests 0.0",
        ]
        return web.Response(text="\n".join(lines) + "\n")


async def serve(given: argparse.Namespace) -> None:
    server = FakeServer(given)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/completions", server.complete)
    app.router.add_post("/v1/chat/completions", server.complete)
    for path, handler in (
        ("/health", server.health),
        ("/v1/models", server.models),
        ("/metrics", server.metrics),
    ):
        app.router.add_get(path, handler)
    exporter = web.Application()
    exporter.router.add_get("/metrics", server.exporter)
    for each, port in ((exporter, int(os.environ.get("BIDKV_METRICS_PORT", "0"))), (app, given.port)):
        runner = web.AppRunner(each, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token-s", type=float, default=0.001)
    parser.add_argument("--stall-at", type=int, default=-1)
    parser.add_argument("--stall-s", type=float, default=0.0)
    parser.add_argument("--stall-log", default="")
    parser.add_argument("--fault", default="")
    parser.add_argument("--faulty", default="")
    parser.add_argument("--log", default="")
    asyncio.run(serve(parser.parse_args()))
