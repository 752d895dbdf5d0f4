"""Runs SGLang's real engine on a CPU once and prints one JSON line: outputs, retractions, hooks.

    python engine_main.py FOLDER JSON

A failing scheduler process kills its parent, so tests run this in a process of its own. FOLDER holds the
model; JSON the workload: {"requests": [[prompt ids], max_new_tokens, deadline_ms or null], "arguments": {}}.
"""

import json
import sys

import shims

shims.install()  # at module level: SGLang's spawned processes import this module again


def main() -> None:
    folder, text = sys.argv[1:]
    job = json.loads(text)
    from sglang.srt.entrypoints.engine import Engine

    engine = Engine(
        **{
            "model_path": folder,
            "device": "cpu",
            "skip_tokenizer_init": True,
            "attention_backend": "torch_native",
            "sampling_backend": "pytorch",
            "dtype": "float32",
            "mem_fraction_static": 0.05,
            "max_running_requests": 8,
            "disable_cuda_graph": True,
            "grammar_backend": "none",
            "page_size": 1,
            "schedule_conservativeness": 0.0,
            "skip_server_warmup": True,
            "log_level": "warning",
            **job["arguments"],
        }
    )
    prompts, parameters = [], []
    for prompt, max_new_tokens, deadline_ms in job["requests"]:
        prompts.append(prompt)
        custom = None if deadline_ms is None else {"bidkv_deadline_ms": deadline_ms}
        parameters.append(
            {
                "max_new_tokens": max_new_tokens,
                "temperature": 0.0,
                "ignore_eos": True,
                "custom_params": custom,
            }
        )
    answers = engine.generate(input_ids=prompts, sampling_params=parameters)
    print(
        "RESULT "
        + json.dumps(
            [
                {
                    "id": answer["meta_info"]["id"],
                    "output": answer["output_ids"],
                    "finish": answer["meta_info"]["finish_reason"]["type"],
                    "retractions": answer["meta_info"].get("num_retractions"),
                }
                for answer in answers
            ]
        ),
        flush=True,
    )
    engine.shutdown()


if __name__ == "__main__":
    main()
