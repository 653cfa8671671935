# Every target does all of its own set-up: an environment in .venv, made again when pyproject.toml changes.
# No root and no service is needed; both are fine.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
DATA ?= ./data
PORT ?= 8080
# The first that is 3.11 or newer: `python3` may be older than a python3.x beside it.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$name"; break; }; done)
PACKAGES := catalog tapeserver cacheserver jobserver client capstan
SECONDS ?= 600
# How many test files run at once. Each is in a process of its own with its own PostgreSQL and sites; half of the time
# of most tests is waiting for the processes that they start.
WORKERS ?= 2
SEED ?=

.PHONY: help demo up test soak check bench clean

help:
	@echo 'make demo     the whole loop on this machine: put, tape, cache, held jobs, release; checks every result'
	@echo 'make up       run Capstan here (DATA=$(DATA) PORT=$(PORT)) until Ctrl-C'
	@echo 'make test     all tests; says how many ran, what was skipped and why'
	@echo 'make soak     everything fails under load for SECONDS=$(SECONDS); SEED=N repeats the steps of a run'
	@echo 'make check    style, types and import rules'
	@echo 'make bench    measure against the peers; writes bench/results.json'

demo: $(VENV)/.installed
	@$(BIN)/python -m capstan.demo

up: $(VENV)/.installed
	@$(BIN)/capstan up --data $(DATA) --port $(PORT)

test: $(VENV)/.installed-test
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

soak: $(VENV)/.installed-test
	@$(BIN)/python -m tests.scenario.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

check: $(VENV)/.installed-dev
	@echo 'ruff format'; $(BIN)/ruff format --check --quiet . || { echo 'run: $(BIN)/ruff format .'; exit 1; }
	@echo 'ruff check'; $(BIN)/ruff check --quiet .
	@echo 'mypy'; $(BIN)/mypy
	@echo 'import-linter'; $(BIN)/lint-imports

bench: $(VENV)/.installed
	@$(BIN)/python -m bench

clean:
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find $(PACKAGES) tests bench -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed: EXTRAS :=
$(VENV)/.installed-test: EXTRAS := [test]
$(VENV)/.installed-dev: EXTRAS := [test,dev]
$(VENV)/.installed $(VENV)/.installed-test $(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo 'installing Capstan into $(VENV)$(if $(EXTRAS), with $(EXTRAS))'
	@PYTHONWARNINGS='ignore:Editable installation' $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.$(EXTRAS)'
	@touch $@

$(BIN)/python:
	@if [ -z '$(PYTHON)' ]; then echo 'Capstan needs Python 3.11 or newer with venv and pip;' \
		'Debian: apt-get install python3-venv' >&2; exit 1; fi
	@echo 'making $(VENV) with $(PYTHON)'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
