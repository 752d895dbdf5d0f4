# Sourced by the setup scripts of the engines' environments: makes $venv anew, unless the stamp in it says that
# the script that calls this made it. Leaves `pip` (a command) and `ready` (to be called at the end) behind.
# shellcheck shell=bash
# The recipe is the calling script: any change to a pinned line in it rebuilds the environment.
recipe="$(sha256sum "$0" | cut -d' ' -f1)"
cd "$(dirname "$0")/.." || exit
stamp="$venv/.setup-stamp"

if [[ -f "$stamp" && "$(cat "$stamp")" == "$recipe" ]]; then
  echo "$venv is up to date"
  exit 0
fi

rm -rf "$venv"
"${PYTHON:-python3.11}" -m venv "$venv"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)

ready() {
  "${pip[@]}" --no-deps --no-build-isolation --editable .
  echo "$recipe" > "$stamp"
  echo "$venv is ready"
}
