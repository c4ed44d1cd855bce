# `make demo` and `make test` work from a bare machine with Python 3.11 to
# 3.13: they make .venv and install into it. PYTHON=... chooses another one.

VENV ?= .venv
JOBS ?= 2
TORCH ?= torch
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
  $$python -c "import venv, ensurepip, sys; \
    assert sys.version_info[:2] >= (3, 11)" >/dev/null 2>&1 \
  && { echo $$python; break; }; done)

.PHONY: help demo install test lint types test-slow test-torch bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.installed ## audit a diffusion model trained on digits
	$(BIN)/diffmem-audit --config=configs/digits.py --workdir=runs/digits

install: $(VENV)/.installed ## install into .venv

test: lint types ## lint, types and the test suite
	$(BIN)/python -m pytest -q -m "not slow and not torch" \
	  -n $(JOBS) --dist loadfile

lint: $(VENV)/.installed-test
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .

types: $(VENV)/.installed-test
	$(BIN)/basedpyright --pythonpath $(BIN)/python --warnings

test-slow: $(VENV)/.installed-test ## kills, clean installs, notebooks, other long tests
	$(BIN)/python -m pytest -q -m slow -n $(JOBS) --dist loadfile

test-torch: $(VENV)/.installed-torch ## what needs PyTorch: TORCH=torch==... chooses which
	$(BIN)/python -m pytest -q -m torch -n $(JOBS) --dist loadfile

bench: $(VENV)/.installed-bench ## every benchmark, ratios printed
	@set -e; for file in benchmarks/*.py; do \
	  echo "== $$file"; $(BIN)/python $$file; done

clean: ## remove .venv and caches, keep runs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "make: no working Python 3.11 or newer" \
	  "with venv was found; install one or give PYTHON=/path/to/python3" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py | $(VENV)/bin/python
	@echo "installing diffmem into $(VENV)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-torch: $(VENV)/.installed-test
	@echo "installing diffmem[torch] with $(TORCH) into $(VENV)"
	@$(PIP) "$(TORCH)" -e ".[test,torch]"
	@touch $(VENV)/.installed $@

$(VENV)/.installed-%: setup.py | $(VENV)/bin/python
	@echo "installing diffmem[$*] into $(VENV)"
	@$(PIP) -e ".[$*]"
	@touch $(VENV)/.installed $@
