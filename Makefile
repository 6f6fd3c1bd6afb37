# Two commands: `make demo` and `make test`. Each sets everything up on a fresh machine with Python >= 3.11.
PYTHON ?= $(shell command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.geoseg-ready
# Labelled imagery for the tests marked `data`; they are skipped where it is absent.
export GEOSEG_DATA ?= $(wildcard $(CURDIR)/../shared/data)

.PHONY: demo test lint bench clean

demo: $(READY)  ## a synthetic town, end to end, into ./demo
	$(BIN)/geoseg demo demo --overwrite

test: $(READY)  ## all tests
	$(BIN)/python -m pytest

lint: $(READY)  ## ruff, mypy, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## speed and memory as ratios within one run
	$(BIN)/python -m tests.benchmarks

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "geoseg needs Python >= 3.11; set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
