# make demo   create .venv, install, run the quickstart
# make test   create .venv, install, run every check and test
# make test-peer   AdapterHub, in an environment of its own, reads what we write
#
# PYTHON=python3.13            the interpreter that .venv is made with
# TORCH='torch==2.12.0'        another torch; any pip arguments
# TRANSFORMERS='transformers==5.5.*'
# JOBS=4 ARGS='-k laws --draws 5000'   how the tests run

PYTHON ?= python3
VENV ?= .venv
# Installed first and pinned: a build for the CPU that is at hand serves, and no later step replaces it.
TORCH ?= torch==2.13.0
TRANSFORMERS ?=
JOBS ?= 2
ARGS ?=

BIN := $(VENV)/bin
# Modules are compiled when they are first imported, and once; most of what is installed never is.
export PYTHONDONTWRITEBYTECODE :=
INSTALL := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-compile
DEMO := $(VENV)/demo.stamp
DEV := $(VENV)/dev.stamp
# It pins a transformers of its own, so it cannot live beside ours.
PEER_VENV ?= .venv-peer
PEER := $(PEER_VENV)/peer.stamp

.DEFAULT_GOAL := help
.PHONY: help demo test test-peer lint format types docs wheel clean

help: ## list the verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras, renewed when pyproject.toml changes. dev holds all that demo needs.
$(DEV): pyproject.toml | $(BIN)/python
	$(INSTALL) "$(firstword $(TORCH))" $(wordlist 2,9,$(TORCH))
	$(INSTALL) --editable ".[dev]" $(TRANSFORMERS)
	@touch $(DEMO) $@

$(DEMO): pyproject.toml | $(BIN)/python
	$(INSTALL) "$(firstword $(TORCH))" $(wordlist 2,9,$(TORCH))
	$(INSTALL) --editable ".[demo]" $(TRANSFORMERS)
	@touch $@

demo: $(DEMO) ## run recipes/quickstart.yaml; results in runs/quickstart
	$(BIN)/compose run recipes/quickstart.yaml

# Every check runs, whatever the others say; any failure fails the whole. The tests come last.
test: $(DEV) ## every check and test, as the CI runs them
	@status=0; \
	$(MAKE) --no-print-directory --keep-going --jobs $(JOBS) --output-sync lint types docs || status=1; \
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS) || status=1; \
	exit $$status

$(PEER):
	$(PYTHON) -m venv $(PEER_VENV)
	$(PEER_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --no-compile \
		"$(firstword $(TORCH))" $(wordlist 2,9,$(TORCH)) adapters==1.3.0
	@touch $@

test-peer: $(DEV) $(PEER) ## AdapterHub itself reads what we write, computes and learns the same
	COMPOSE_PEER=$(abspath $(PEER_VENV))/bin/python $(BIN)/python -m pytest tests/peer $(ARGS)

lint: $(DEV) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV) ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV) ## mypy over the package
	$(BIN)/mypy

docs: $(DEV) ## the documentation, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: $(DEV) ## the wheel and the source distribution, in dist/
	$(BIN)/python -m build --no-isolation

clean: ## remove what the other verbs made, .venv included
	rm -rf $(VENV) $(PEER_VENV) dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
