# The commands of this project; `make` lists them. Only Python 3.11+ and a package index are needed.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

# The environment is made once and again whenever its two files change.
$(VENV)/.done: pyproject.toml constraints.txt
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (once)"
	@$(PY) -m pip install --quiet --disable-pip-version-check torch -c constraints.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# the reader that our shards are checked against; it needs nothing that is not there already
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps megatron-core==0.16.1
	@touch $@

env: $(VENV)/.done  ## make the environment in .venv

demo: env  ## raw text to shards, pretraining, LoRA tuning and answers, on two cores; prints a before/after table
	@$(PY) scripts/demo.py

serve: env  ## the small model on http://127.0.0.1:8000, with the web page, on the engine that fits this machine
	@$(PY) scripts/serve.py web=true

vllm:  ## vLLM in an environment of its own, .venv-vllm (3.4 GB), for engine=vllm
	@test -x .venv-vllm/bin/python && .venv-vllm/bin/python -c "import vllm" 2>/dev/null || PYTHON=$(PYTHON) scripts/launch/install_vllm.sh

test: env  ## the whole test suite
	@$(PY) -m pytest

test-fast: env  ## the tests that take seconds
	@$(PY) -m pytest -m 'not slow'

lint: env  ## style and format
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: env  ## format the code
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

type: env  ## types
	@$(PY) -m mypy

bench-gpu: env  ## training on one GPU: tokens/s, MFU and memory, each optimisation on and off (under 10 minutes)
	@$(PY) benchmarks/training.py gpu

clean:  ## remove the environment and what runs left behind; keeps data/
	rm -rf $(VENV) .venv-vllm outputs .pytest_cache .mypy_cache .ruff_cache

.PHONY: help env demo serve vllm test test-fast lint format type bench-gpu clean
