# One word a job; `make` lists them. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -q

.DEFAULT_GOAL := help
.PHONY: help setup demo picture lint test test-core test-pages test-deploy test-vllm test-sglang docs bench nightly clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

$(BIN)/python:
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "bidkv needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Installed only as far as a target needs: the demo must be ready within minutes on a small machine.
$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	$(PIP) -e ".[cli,report]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/.installed-demo

setup: $(VENV)/.installed-dev ## everything for development, in .venv

demo: $(VENV)/.installed-demo ## agents on a prefix cache, then single requests: tables, and two pages in out/
	@$(BIN)/bidkv simulate --workload agents-20-turns --sessions 400 --concurrent-sessions 80 --duration-s 200 \
	  --enable-prefix-caching --async-scheduling --num-gpu-blocks 20000 --max-num-seqs 256 \
	  --profile h100-llama3.1-8b-async --strategy preempt-evict,fair,sessions --html out/demo-sessions.html
	@$(BIN)/bidkv simulate --trace azure-conv --rate 2.4 --num-gpu-blocks 600 --max-num-seqs 32 \
	  --strategy preempt-evict,preempt-evict-sjf,static-random,largest-first,bidkv,lcf,fair,fast --html out/demo.html

picture: setup demo ## docs/demo.png, the demo's page as a picture
	scripts/setup-browser.sh
	$(BIN)/python scripts/picture.py out/demo.html docs/demo.png

lint: setup ## linter, formatter, type checker, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint test-core test-pages test-deploy test-vllm test-sglang ## everything; a skipped suite is a failure

test-core: setup ## quick: all but engines and browser
	$(PYTEST) tests --ignore=tests/vllm --ignore=tests/sglang -m "not browser and not prometheus" --no-skips \
	  -n auto --maxprocesses 4 --dist worksteal

test-pages: setup ## the report in a real headless browser
	scripts/setup-browser.sh
	$(PYTEST) tests/pages -m browser --no-skips

test-deploy: setup ## dashboard, alert rules and metrics, held against promtool
	scripts/setup-prometheus.sh
	$(PYTEST) tests/observability -m prometheus --no-skips

test-vllm: ## policies inside a real vLLM, in .venv-vllm
	PYTHON=$(PYTHON) scripts/setup-vllm.sh
	scripts/setup-prometheus.sh
	.venv-vllm/bin/python -m pytest -q tests/vllm --no-skips

test-sglang: ## policies inside a real SGLang, in .venv-sglang
	PYTHON=$(PYTHON) scripts/setup-sglang.sh
	.venv-sglang/bin/python -m pytest -q tests/sglang --no-skips

docs: setup ## the documentation as a site, out/site/index.html; needs no network to read
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: setup ## speed, measured by pytest-benchmark
	$(PYTEST) benchmarks --benchmark-only

nightly: setup ## the long versions of what docs/reference/reliability.md names: hours
	$(PYTEST) tests/reliability --hypothesis-profile=nightly -o timeout=0
	$(PIP) atheris
	$(BIN)/python scripts/fuzz.py --inputs 1000000
	$(BIN)/python scripts/soak.py simulator --requests 10000000
	PYTHON=$(PYTHON) scripts/setup-vllm.sh
	.venv-vllm/bin/python scripts/soak.py vllm --requests 100000
	.venv-vllm/bin/python -m pytest -q -s tests/vllm/test_faults.py --campaign --no-skips
	.venv-vllm/bin/python -m pytest -q -s tests/vllm/test_features.py tests/vllm/test_groups.py \
	  tests/vllm/test_connectors.py tests/vllm/test_two_engines.py tests/vllm/test_retention.py \
	  tests/vllm/test_sessions_engine.py tests/vllm/test_session_server_faults.py --campaign --no-skips
	scripts/version-matrix.sh
	PYTHON=$(PYTHON) scripts/setup-sglang.sh
	.venv-sglang/bin/python -m pytest -q -s tests/sglang/test_faults.py --campaign --no-skips
	scripts/sglang-matrix.sh

clean: ## remove what was built (the environments too)
	rm -rf $(VENV) .venv-vllm .venv-sglang out build dist .pytest_cache .mypy_cache .ruff_cache .benchmarks
