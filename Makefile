# Two commands: `make demo` and `make test`. Each sets everything up on a fresh machine with Python >= 3.11.
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.geoseg-ready
# Labelled imagery for the tests marked `data`; they are skipped where it is absent.
export GEOSEG_DATA ?= $(wildcard $(CURDIR)/../shared/data)

.PHONY: demo test lint bench clean

demo: $(READY)  ## a synthetic town, end to end, into ./demo
	$(BIN)/geoseg demo demo --overwrite

test: $(READY)  ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --durations 25

lint: $(READY)  ## ruff, mypy, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## speed and memory as ratios within one run
	$(BIN)/python -m tests.benchmarks

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "geoseg needs Python >= 3.11. Say where: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
