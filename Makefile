# make demo | test | soak | lint | bench | constraints | clean. Each makes .venv if it is missing; PYTHON=... chooses
# another interpreter.

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/sh

CANDIDATES := python3.11 python3.12 python3.13 python3
PROBE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(CANDIDATES); do $$p -c '$(PROBE)' >/dev/null 2>&1 && { echo $$p; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --no-compile -c constraints.txt -e
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib || true
CONFIG ?= configs/flights.toml

.PHONY: help demo test soak lint bench constraints clean

help:
	@echo "make demo         from raw flights to a served prediction ($(CONFIG))"
	@echo "make test         the test suite; ARGS='tests/flights -k spine' narrows it"
	@echo "make soak         the tests of random schedules and kills, many more of each: an hour or more"
	@echo "make lint         ruff, mypy --strict, import-linter"
	@echo "make bench        small benchmarks beside DuckDB and Polars; ARGS=--full the stated sizes"
	@echo "make constraints  resolve the tested set anew"
	@echo "make clean        remove what demo, test and lint made; .venv stays"

demo: .venv/.demo
	$(BIN)/mlray demo --config $(CONFIG) $(ARGS)

test: .venv/.dev
	$(BIN)/python -m pytest $(ARGS)

# The tests that ask tests/soak.py how often they try.
SOAKED := tests/test_parity_schedules.py tests/online/test_store_contract.py tests/registry/test_promotion_races.py \
	tests/registry/test_registration_races.py tests/registry/test_registry_kills.py tests/registry/test_janitor.py \
	tests/registry/test_drop.py tests/registry/test_random_changes.py tests/training/test_kills.py \
	tests/training/test_training_kinds.py

soak: .venv/.dev
	MLRAY_SOAK=1 $(BIN)/python -m pytest --timeout 14400 $(SOAKED) $(ARGS)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.bench
	$(BIN)/python -m benchmarks $(ARGS)

# pip would compile on one processor what is then compiled on all; some packages hold files that are not Python's.
# The stamps are older than pyproject.toml or constraints.txt only when something is to be installed. What .[dev]
# installs contains .[demo] and .[bench], hence their stamps.
.venv/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[dev]'
	@$(COMPILE)
	@touch .venv/.demo .venv/.bench .venv/.dev

.venv/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[demo]'
	@$(COMPILE)
	@touch .venv/.demo

.venv/.bench: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[bench]'
	@$(COMPILE)
	@touch .venv/.bench

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer with venv found; install one or call: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "making .venv with $(PYTHON) and installing; this takes some minutes, once" >&2
	$(PYTHON) -m venv .venv

constraints:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer with venv found" >&2; exit 1; }
	rm -rf build/constraints
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/pip install --quiet -e '.[dev]'
	{ grep '^#' constraints.txt; build/constraints/bin/pip freeze --exclude-editable | sed 's/+cpu$$//'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build/constraints

clean:
	rm -rf build data .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
