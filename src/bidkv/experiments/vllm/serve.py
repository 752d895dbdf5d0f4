"""`python -m bidkv.experiments.vllm.serve --model ...`: vLLM's OpenAI server, every flag passed through.

The strategy comes from BIDKV_STRATEGY (unset: the server as it is).
"""

from bidkv.adapters.vllm.server import main

if __name__ == "__main__":
    main()
