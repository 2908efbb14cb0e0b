# make help lists the targets.  One virtual environment, .venv, serves them all; it is brought up to
# date when pyproject.toml or constraints.txt changes.  Another Python: make PYTHON=python3.12 test

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
BENCH  ?= $(sort $(wildcard bench/[!_]*.py))

# One thread a worker: two workers on two cores do not fight, and bit-equality is promised there.
# Bytecode is kept, also where the environment says otherwise: the tests start a hundred processes.
ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help quickstart test test-full lint system-packages bench clean

help:
	@echo 'make quickstart   install paribus into $(VENV) and run the quickstart study'
	@echo 'make test         lint, then every test but the slow ones (12 minutes on 2 cores)'
	@echo 'make test-full    lint, then every test'
	@echo 'make lint         ruff and mypy'
	@echo 'make bench        run the scripts in bench/ (BENCH=bench/x.py: one of them)'
	@echo 'make clean        remove builds and caches; $(VENV) and runs/ stay'

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(None if ok else \
	    "paribus needs Python 3.11, 3.12 or 3.13; this is " + sys.version.split()[0] + \
	    ". Try: make PYTHON=python3.12 ...")'
	@echo 'making $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/.made
	@echo 'installing paribus into $(VENV) (a few minutes the first time)'
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.made
	@echo 'installing paribus and what its tests need into $(VENV) (a few minutes the first time)'
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.base $@

quickstart: $(VENV)/.base
	$(BIN)/paribus run quickstart

system-packages:
	@bash tools/system-packages.sh

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint system-packages
	$(ENV) $(PYTEST) -m 'not full'

test-full: lint system-packages
	$(ENV) $(PYTEST)

bench: $(VENV)/.dev
	@printf '%s\n' 'bench:' $(BENCH:%='  %')
	@set -e; for script in $(BENCH); do echo; echo "== $$script"; $(BIN)/python "$$script"; done

clean:
	rm -rf build dist .coverage htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
