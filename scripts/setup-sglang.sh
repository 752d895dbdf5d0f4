#!/usr/bin/env bash
# Creates .venv-sglang: real SGLang for a CPU, with what its tests need. Does nothing when the stamp is current.
set -euo pipefail

venv=.venv-sglang
. "$(dirname "$0")/environment.sh"

# SGLang names GPU packages that a CPU does without, and pip says so at every step: only its errors count.
# torch first and pinned again below, so that nothing pulls in another build of it.
"${pip[@]}" torch==2.13.0
"${pip[@]}" --no-deps sglang==0.5.23 torchvision==0.28.0
"${pip[@]}" torch==2.13.0 numpy transformers==5.19.0 pillow orjson psutil pybase64 requests triton starlette \
  msgspec pyzmq ipython aiohttp dill apache-tvm-ffi==0.1.11 sentencepiece==0.2.1 compressed-tensors==0.18.0 gguf \
  openai==2.8.0 partial_json_parser setproctitle einops uvicorn fastapi uvloop
"${pip[@]}" --no-deps xgrammar==0.2.7
# The HTTP server imports these too.
"${pip[@]}" jsonschema soundfile==0.13.1 python-multipart
"${pip[@]}" 'pytest>=8.2' 'pytest-timeout>=2.3' 'hypothesis>=6.100' 'prometheus-client>=0.20' \
  'hatchling>=1.24' editables
ready
