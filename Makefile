# Every target sets up what it needs: `make demo` and `make test` work on a fresh machine with Python 3.11 to 3.13.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo "$$p" && break; done)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TOY ?= data/toy_cars
RUN ?= runs/demo
SEED ?= 0
SPEED ?= runs/speed

.PHONY: help install demo test lint bench clean
help: ## show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

install: $(STAMP) ## make .venv with the package and its development tools, once
	@echo "==> installed: $(BIN)/nvsm ($$($(BIN)/nvsm --version)). Put it on your path: source $(BIN)/activate"

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11-3.13 found. Install one, or give it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "==> installing into $(VENV) with $(PYTHON) (PyPI's torch carries CUDA: about 6 GB on disk, a few minutes)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP) ## the whole way on rendered cars: make the data, learn from 7 labelled pictures, print the table
	@echo "==> 1/2 the embedded set of rendered cars in $(TOY)"
	@$(BIN)/nvsm prepare toy --root $(TOY)
	@echo "==> 2/2 nvsm fit --config configs/car_7shot.yaml --data.root $(TOY) --seed_everything $(SEED) --run_dir $(RUN)"
	@$(BIN)/nvsm fit --config configs/car_7shot.yaml --data.root $(TOY) --seed_everything $(SEED) --run_dir $(RUN)
	@echo "==> done: table and pictures in $(RUN) (results.json, tables/, media/)"

test: $(STAMP) ## run the test suite (two processes)
	@echo "==> running the tests; those that read real photographs are skipped unless NVSM_SHARED_DATA names a folder with them"
	@OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest -n 2 --dist loadfile --durations 10 $(ARGS)

lint: $(STAMP) ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(STAMP) ## measure the speed of renderer, pose solver and the other hot paths on this machine
	@$(BIN)/nvsm bench speed --out $(SPEED) $(ARGS)

clean: ## remove caches and builds (never runs, data or .venv)
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	@find nvsm_lightning tests -name __pycache__ -type d -prune -exec rm -rf {} +
