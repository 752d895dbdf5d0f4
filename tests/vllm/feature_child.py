"""Run in a process of its own: real CPU engines with the features people use, each under several policies.

    python -m tests.vllm.feature_child LLAMA '["LoRA", ...]' COUNT FOLDER REPORT

One engine serves a feature's requests with all of its memory and bidkv switched off, and then, with most of
its blocks taken away, once under each policy. The report is JSON.
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.engine_model import VOCABULARY
from tests.vllm.engine_child import scheduler_of
from tests.vllm.tiny_models import FIRST_LETTER, write_tiny_model, write_tokenizer

from bidkv.adapters.vllm.plugin import register, unregister
from bidkv.protocol.read_only import write_facts

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

POLICIES = ("fair", "fast")
MODEL, FOLDER = "<model>", "<folder>"


@dataclass(frozen=True)
class Feature:
    """How an engine is made, and what it is asked.

    Attributes:
        blocks: blocks that are left while a policy is in charge.
        model: a kind of `tiny_models`, or "llama".
        engine: options of `LLM`; `MODEL` and `FOLDER` in them become the paths of this run.
        serve: sends the requests, see `generate`.
        tokenizer: whether vLLM needs one for it.
        drafts: whether tokens are proposed and checked several at a time.
        loads: whether a connector brings KV from outside.
        preempts: whether so few blocks lead to preemptions; few requests enter where they do not.
        nightly: whether only the long version tries it.
    """

    blocks: int
    model: str = "llama"
    engine: dict[str, Any] = field(default_factory=dict)
    serve: Callable[[Any, Feature, int, Path], list[list[float]]] | None = None
    tokenizer: bool = False
    drafts: bool = False
    loads: bool = False
    preempts: bool = True
    nightly: bool = False


def prompts(count: int) -> list[tuple[list[int], int]]:
    """Seeded (prompt, output length); every prompt repeats a part of itself."""
    rng = random.Random(11)
    made = []
    for _ in range(count):
        part = [rng.randrange(1, VOCABULARY) for _ in range(rng.randint(10, 50))]
        made.append((part + part[: rng.randint(0, len(part))], rng.randint(20, 60)))
    return made


def sampling(length: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True, detokenize=False)


def generate(llm: Any, feature: Feature, count: int, folder: Path) -> list[list[float]]:
    """Serve everything at once; returns the tokens of every request."""
    return _generate(llm, [sampling(length) for _, length in prompts(count)])


def _generate(llm: Any, parameters: list[Any], **options: Any) -> list[list[float]]:
    """Serve one request for each of the sampling parameters."""
    made = [{"prompt_token_ids": prompt} for prompt, _ in prompts(len(parameters))]
    return _outputs(llm.generate(made, parameters, use_tqdm=False, **options))


def _outputs(results: Any) -> list[list[float]]:
    return [[token for output in result.outputs for token in output.token_ids] for result in results]


def embeddings_in(llm: Any, feature: Feature, count: int, folder: Path) -> list[list[float]]:
    """Prompts as embeddings instead of tokens."""
    import torch

    generator = torch.Generator().manual_seed(3)
    made = prompts(count)
    inputs = [
        {"prompt_embeds": torch.randn(len(prompt), 128, generator=generator) * 10.0} for prompt, _ in made
    ]
    parameters = [sampling(length) for _, length in made]
    return _outputs(llm.generate(inputs, parameters, use_tqdm=False))


def embeddings_out(llm: Any, feature: Feature, count: int, folder: Path) -> list[list[float]]:
    """Vectors instead of tokens, rounded: a prompt computed in other chunks differs in the last digits."""
    results = llm.embed([{"prompt_token_ids": prompt * 5} for prompt, _ in prompts(count)], use_tqdm=False)
    return [[round(value, 3) + 0.0 for value in result.outputs.embedding[:16]] for result in results]


def adapters(llm: Any, feature: Feature, count: int, folder: Path) -> list[list[float]]:
    """Three LoRA adapters, of which two may run at once."""
    from vllm.lora.request import LoRARequest

    loras = [LoRARequest(f"lora{n}", n, str(write_lora(folder / f"lora{n}", seed=n))) for n in (1, 2, 3)]
    parameters = [sampling(length) for _, length in prompts(count)]
    return _generate(llm, parameters, lora_request=[loras[number % 3] for number in range(count)])


def several_outputs(llm: Any, feature: Feature, count: int, folder: Path) -> list[list[float]]:
    """Three sampled sequences for each request, one behind the other."""
    parameters = [sampling(length) for _, length in prompts(count)]
    for seed, each in enumerate(parameters):
        each.n, each.temperature, each.seed = 3, 1.0, seed
    return _generate(llm, parameters)


def structured(llm: Any, feature: Feature, count: int, folder: Path) -> list[list[float]]:
    """Letters only: of the first half of the alphabet, the second, or all of it."""
    from vllm.sampling_params import StructuredOutputsParams

    ranges = ["am", "nz", "az"]
    allowed = [ranges[number % 3] for number in range(count)]
    parameters = [sampling(length) for _, length in prompts(count)]
    for each, (first, last) in zip(parameters, allowed, strict=True):
        each.structured_outputs = StructuredOutputsParams(regex=f"[{first}-{last}]{{100}}")
    outputs = _generate(llm, parameters)
    for tokens, (first, last) in zip(outputs, allowed, strict=True):
        letters = {chr(ord("a") + int(token) - FIRST_LETTER) for token in tokens}
        assert all(first <= letter <= last for letter in letters), letters
    return outputs


def write_lora(directory: Path, *, seed: int) -> Path:
    """Write a random adapter of rank 8 for the tiny Llama's query projections."""
    import torch
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(8, 128, generator=generator) * 0.3
        weights[f"{name}.lora_B.weight"] = torch.randn(128, 8, generator=generator) * 0.3
    save_file(weights, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


FEATURES: dict[str, Feature] = {
    "LoRA": Feature(
        24,
        engine={"enable_lora": True, "max_loras": 2, "max_lora_rank": 8, "max_cpu_loras": 3},
        serve=adapters,
    ),
    "prompt embeddings": Feature(24, engine={"enable_prompt_embeds": True}, serve=embeddings_in),
    "pooling": Feature(
        24,
        engine={"runner": "pooling", "convert": "embed", "max_num_batched_tokens": 128},
        serve=embeddings_out,
        tokenizer=True,
        preempts=False,
    ),
    "structured outputs": Feature(
        24, engine={"structured_outputs_config": {"backend": "xgrammar"}}, serve=structured, tokenizer=True
    ),
    "n above 1": Feature(
        24,
        # A CPU's generator cannot be set back, as vLLM does where a prompt is cut.
        engine={"enable_chunked_prefill": False, "max_num_batched_tokens": 1024},
        serve=several_outputs,
    ),
    "latent attention": Feature(
        48,
        model="deepseek",
        engine={
            "attention_config": {"backend": "CPU_MLA"},  # some processors have another, without float32
            # With this build's own normalization, outputs of a request depend on what shares its batch.
            "compilation_config": {"custom_ops": ["none"]},
            "block_size": 16,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": 1024,
        },
    ),
    "Gemma 3": Feature(24, model="gemma3"),
    "Falcon-H1": Feature(24, model="falcon-h1"),
    "Granite hybrid": Feature(24, model="granite-hybrid", preempts=False),
    # The draft is the model itself.
    "draft model": Feature(
        18,
        engine={"speculative_config": {"method": "draft_model", "model": MODEL, "num_speculative_tokens": 3}},
        drafts=True,
        nightly=True,
    ),
    "KV kept on disk": Feature(
        24,
        engine={
            "kv_transfer_config": {
                "kv_connector": "PromptsOnDisk",
                "kv_connector_module_path": "tests.vllm.disk_connector",
                "kv_role": "kv_both",
                "kv_connector_extra_config": {"shared_storage_path": FOLDER + "/kv"},
            }
        },
        loads=True,
        nightly=True,
    ),
    # Last: once its compiler is loaded, vLLM makes no second engine in a process.
    "n-gram speculation": Feature(
        24,
        engine={
            "speculative_config": {
                "method": "ngram",
                "num_speculative_tokens": 4,
                "prompt_lookup_min": 1,
                "prompt_lookup_max": 3,
            }
        },
        drafts=True,
    ),
}


def build(model: str, feature: Feature, folder: Path) -> Any:
    """The engine, with more memory than its requests need."""
    from vllm.config import KVTransferConfig

    from vllm import LLM

    text = json.dumps(feature.engine).replace(MODEL, model).replace(FOLDER, str(folder))
    options = json.loads(text)
    if "kv_transfer_config" in options:
        options["kv_transfer_config"] = KVTransferConfig(**options["kv_transfer_config"])
    defaults = {
        "skip_tokenizer_init": not feature.tokenizer,
        "dtype": "float32",
        "enforce_eager": True,
        "gpu_memory_utilization": 0.1,
        "block_size": 32,
        "max_model_len": 1024,
        "max_num_batched_tokens": 256,
        "max_num_seqs": 16,
        "num_gpu_blocks_override": 400,
        "enable_prefix_caching": False,
        "disable_log_stats": True,
    }
    return LLM(model=model, **defaults | options)


@contextmanager
def watching(scheduler: Any) -> Iterator[Counter[str]]:
    """Yield a count of draft tokens, and of tokens whose KV a connector has."""
    counts: Counter[str] = Counter()
    update, connector = scheduler.update_from_output, scheduler.connector

    def count_drafts(output: Any, *args: Any, **kwargs: Any) -> Any:
        counts["drafts"] += sum(map(len, output.scheduled_spec_decode_tokens.values()))
        return update(output, *args, **kwargs)

    scheduler.update_from_output = count_drafts
    if connector is not None:
        ask = connector.get_num_new_matched_tokens

        def count_loads(*args: Any, **kwargs: Any) -> Any:
            answer = ask(*args, **kwargs)
            counts["loads"] += answer[0] or 0
            return answer

        connector.get_num_new_matched_tokens = count_loads
    try:
        yield counts
    finally:
        del scheduler.update_from_output
        if connector is not None:
            del connector.get_num_new_matched_tokens


def run(llm: Any, feature: Feature, policy: str, count: int, folder: Path) -> dict[str, Any]:
    """One run under one policy; "" is vLLM's own order."""
    scheduler = scheduler_of(llm)
    controller = scheduler.bidkv.controller
    controller._time_budget_s = 30.0  # this machine may be busy
    if policy:
        controller.switch(scheduler.bidkv.resolve(policy))
    else:
        controller.disable()
    before = controller.counters.as_dict()
    named: list[str] = []
    scheduler.bidkv.glue.on_victims = lambda victims: named.extend(victim.request_id for victim in victims)
    with watching(scheduler) as counts:
        outputs = (feature.serve or generate)(llm, feature, count, folder)
    after = controller.counters.as_dict()
    return {
        "outputs": outputs,
        "named": len(named),
        "drafts": counts["drafts"],
        "loads": counts["loads"],
        "counters": {name: after[name] - before[name] for name in after},
        "active": controller.active,
        "attached": scheduler.bidkv.glue.attached,
        "breaker": controller.breaker.reason,
        "free": scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
        "left": len(scheduler.running) + scheduler.get_request_counts()[1],
    }


def report_on(llama: str, name: str, count: int, folder: Path) -> dict[str, Any]:
    """Build one engine, serve with all of its memory and then under every policy with little of it."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    feature = FEATURES[name]
    model = llama
    if feature.model != "llama":
        model = str(write_tiny_model(folder / feature.model, feature.model))
    elif feature.tokenizer:
        model = str(shutil.copytree(llama, folder / "with-tokenizer", dirs_exist_ok=True))
        write_tokenizer(Path(model))
    llm = None
    try:
        with patch.dict(os.environ, {"BIDKV_STRATEGY": "preempt-evict"}):
            register()
            llm = build(model, feature, folder)
        scheduler = scheduler_of(llm)
        pool = scheduler.kv_cache_manager.block_pool
        report: dict[str, Any] = {"scheduler": type(scheduler).__name__, "runs": {}}
        report["groups"] = len(scheduler.kv_cache_config.kv_cache_groups)
        report["alone"] = run(llm, feature, "", count, folder)["outputs"]
        taken = pool.get_new_blocks(pool.get_num_free_blocks() - feature.blocks)
        report["blocks"] = feature.blocks
        write_facts(scheduler.bidkv.glue.engine, num_blocks=feature.blocks)
        for policy in POLICIES:
            report["runs"][policy] = run(llm, feature, policy, count, folder)
        pool.free_blocks(taken)
        return report
    except Exception:
        return {"error": traceback.format_exc()}
    finally:
        unregister()
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def main() -> None:
    """Run every feature that was asked for."""
    llama, names, count, folder, path = sys.argv[1:]
    reports = {}
    for name in json.loads(names):
        reports[name] = report_on(llama, name, int(count), Path(folder))
        Path(path).write_text(json.dumps(reports))


if __name__ == "__main__":
    main()
