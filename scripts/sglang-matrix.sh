#!/usr/bin/env bash
# Other versions of SGLang: each wheel's sources go before the installed ones of .venv-sglang, with the version of
# transformers it wants. Before 0.5.22 something the plug-in needs is missing: there it must stay out, with one
# warning; from then on the decision tests must pass. Prints a line for each version, and writes the table of
# docs/reference/versions.md when all have passed; fails when a version does.
#   scripts/sglang-matrix.sh [VERSION...]
set -euo pipefail
cd "$(dirname "$0")/.."

python="$PWD/.venv-sglang/bin/python"
folder=out/versions
versions=("$@")
[[ $# -gt 0 ]] || versions=(0.5.16 0.5.20 0.5.22 installed)
[[ -x "$python" ]] || { echo "no $python: run scripts/setup-sglang.sh first"; exit 1; }
mkdir -p "$folder"
pip=("$python" -m pip --quiet --disable-pip-version-check)

status=0
reports=()
for version in "${versions[@]}"; do
  path=""
  number=$version
  if [[ "$version" == installed ]]; then
    number="$("$python" -c 'from importlib.metadata import version; print(version("sglang"))')"
  fi
  if [[ "$version" != installed ]]; then
    path="$PWD/$folder/sglang-$version"
    if [[ ! -f "$path/complete" ]]; then
      "${pip[@]}" install --no-deps --no-compile --target "$path" "sglang==$version"
      wanted="$(sed -nE 's/^Requires-Dist: (transformers==[0-9.]+).*/\1/p' "$path/sglang-$version.dist-info/METADATA" | head -n 1)"
      # Only what that transformers refuses of the installed ones.
      [[ "$wanted" != transformers==5.12.* ]] \
        || "${pip[@]}" install --no-deps --no-compile --target "$path" "$wanted" tokenizers==0.22.2 'huggingface-hub<2'
      touch "$path/complete"
    fi
  fi
  tests=(tests/sglang/test_versions.py)
  case "$version" in
    0.5.1[0-9]* | 0.5.2[01]*) ;;
    *) tests+=(tests/sglang/test_retraction.py tests/sglang/test_admission.py tests/sglang/test_self_test.py) ;;
  esac
  # 0.5.22 answers an abort over a channel that these tests' scheduler without a server does not have.
  [[ "$version" != 0.5.22 ]] || tests+=(--deselect
    tests/sglang/test_admission.py::test_an_aborted_request_is_forgotten)
  log="$folder/sglang-$number.log"
  if PYTHONPATH="$path:$PWD/src" "$python" -m pytest -s -q -p no:cacheprovider --no-skips \
    --junitxml="$folder/sglang-$number.xml" "${tests[@]}" > "$log" 2>&1; then
    reports+=("$folder/sglang-$number.xml")
    echo "$(grep -h '^SGLang .* places there' "$log"): $(tail -n 1 "$log")"
  else
    echo "SGLang $version FAILED, see $log: $(tail -n 1 "$log")"
    status=1
  fi
done
[[ "$status" != 0 || ${#reports[@]} == 0 ]] || "$python" scripts/version_table.py sglang "${reports[@]}"
exit "$status"
