"""Run in a process of its own: AsyncLLM, whose engine is in a further process, with streaming consumers.

    python -m tests.vllm.async_child MODEL COUNT REPORT

The plugin comes in through vLLM's entry point, as in production; the report is JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.vllm.engine_child import requests


async def serve(model: str, count: int) -> list[list[int]]:
    """Stream every request at once through one AsyncLLM."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    from vllm import SamplingParams

    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=model,
            skip_tokenizer_init=True,
            dtype="float32",
            enforce_eager=True,
            gpu_memory_utilization=0.1,
            block_size=32,
            max_model_len=1024,
            max_num_batched_tokens=256,
            max_num_seqs=16,
            num_gpu_blocks_override=60,
            enable_prefix_caching=True,
        )
    )

    async def one(number: int, prompt: list[int], output: int) -> list[int]:
        params = SamplingParams(
            temperature=0.0,
            max_tokens=output,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        tokens: list[int] = []
        async for result in engine.generate({"prompt_token_ids": prompt}, params, f"request-{number}"):
            tokens += result.outputs[0].token_ids
        return tokens

    try:
        made = requests(count, shared_prefix=0)
        return await asyncio.gather(*(one(i, prompt, output) for i, (prompt, output, _) in enumerate(made)))
    finally:
        engine.shutdown()


if __name__ == "__main__":
    outputs = asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
    Path(sys.argv[3]).write_text(json.dumps(outputs))
