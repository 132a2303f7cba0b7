# Everything starts from a machine that has Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(STAMP) ## set up .venv with .venv/bin/catdog from the lock

$(STAMP): requirements.lock pyproject.toml
	@echo "installing the locked dependencies into $(VENV): some minutes, in which pip prints nothing"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: install ## the whole story on drawn pictures, in minutes
	$(BIN)/catdog demo

# Plain `pytest` runs the fast tests; a -m of one's own takes the place of that. Slow tests wait a lot:
# two processes with a Ray cluster each run side by side, a file of tests in one of them. Whole clusters
# have the machine for themselves, as their tests bound how long a job takes to go on after a fault.
SLOW := $(BIN)/python -m pytest -rs --numprocesses 2 --dist loadfile -m

test: install ## the tests, fast ones first; what is skipped is said at the end, with the reason
	$(BIN)/python -m pytest -rs
	$(SLOW) "slow and not long and not cluster"
	$(BIN)/python -m pytest -rs -m "cluster and not long"

test-all: install ## the tests, and each further fault on a cluster of many nodes
	$(BIN)/python -m pytest -rs
	$(SLOW) "slow and not cluster"
	$(BIN)/python -m pytest -rs -m cluster

test-fast: install ## what plain pytest runs: tests without Ray, TensorFlow and a browser
	$(BIN)/python -m pytest

docs: install ## the reference of the Python API, in site/
	$(BIN)/python docs/reference.py site

dist: install ## the wheel and the source distribution, in dist/
	rm -rf dist
	$(BIN)/python -m hatchling build

lint: install ## formatting, lint rules, types, the order of the rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

bench: install .venv-bench/.installed ## the benchmarks beside their peers, as ratios
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.training

# Daft wants an older pyarrow than the main lock has: the extra has an environment of its own.
.venv-bench/.installed: benchmarks/requirements.lock
	@echo "installing the benchmarks' dependencies into .venv-bench: some minutes, in which pip prints nothing"
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --require-hashes --requirement benchmarks/requirements.lock
	@touch $@

LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --quiet \
  --no-header --no-annotate --no-emit-index-url --no-emit-find-links

cluster: install ## a real Ray cluster of three nodes on this machine, until Ctrl-C
	cluster/local.sh

lock: ## resolve the dependencies anew (needs uv)
	$(LOCK) pyproject.toml --extra dev --output-file requirements.lock
	$(LOCK) pyproject.toml --extra bench --output-file benchmarks/requirements.lock
	$(LOCK) --no-emit-package ray --constraints requirements.lock pyproject.toml --output-file catdog/runtime/all.lock
	$(BIN)/python -c 'import re, tomllib; \
	  lines = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]; \
	  print(*(each for each in lines if not re.match("tensorflow|keras|scikit-learn", each)), sep="\n")' \
	  | $(LOCK) --no-emit-package ray --constraints requirements.lock - --output-file catdog/runtime/classify.lock

.PHONY: help install demo test test-all test-fast lint docs dist bench cluster lock
