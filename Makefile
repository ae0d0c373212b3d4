PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test fast lint docs bench constraints

help: ## show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed ## make .venv, complete for runs, tests and benchmarks

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "fedmed needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install ## train the quickstart: six simulated hospitals, a minute on two cores
	$(BIN)/python -m fedmed.run +experiment=quickstart

# Two processes more than there are cores, since many tests wait for servers; nproc would believe OMP_NUM_THREADS.
TESTS := $(BIN)/python -m pytest --dist worksteal --numprocesses $$(($$(env -u OMP_NUM_THREADS nproc) + 2))

LINT := $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

# Linting goes on beside the first tests, which wait for servers; what it finds fails the target too.
test: install ## lint, check types and run the tests
	($(LINT)) & lint=$$!; $(TESTS); tests=$$?; wait $$lint && exit $$tests

fast: install ## lint, check types and run the tests that take a moment
	($(LINT)) & lint=$$!; $(TESTS) -m "not slow"; tests=$$?; wait $$lint && exit $$tests

lint: install ## ruff, mypy and the layers of the rooms
	$(LINT)

docs: install ## build the pages as a site, site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: install ## measure fedmed's cost over bare PyTorch loops
	$(BIN)/python scripts/bench.py engines

constraints: install ## write constraints.txt anew from .venv
	{ head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable; } > constraints.new
	mv constraints.new constraints.txt
