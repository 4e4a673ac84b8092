# make demo        install once into .venv, then train, prompt and report on two CPU cores
# make test        the default suite;  test-fast: the ground floor only;  test-slow: the tests that learn
# make bench       updates per second of the training loop
# make lint        what pre-commit runs;  make clean: remove all that is made here but data/ and runs/
# make lock (needs uv): new pins, UPGRADE="jax flax" takes newer releases
# Choose the interpreter with PYTHON=python3.12 and the number of test processes with WORKERS=4.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --no-deps --no-compile --progress-bar off
# A file of tests stays in one process, where it makes what its tests share once.
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadscope
DEFAULT := -m "not slow and not gpu and not network"
# A change of these files, and nothing else, makes the next call install again.
INSTALLED := .venv/.installed-$(shell cat pyproject.toml requirements.lock | cksum | cut -d ' ' -f 1)

# Installing without byte code saves a third of the wait; the first import must then be able to write it.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-fast test-slow bench lint lock clean

demo: $(INSTALLED)
	@$(BIN)/embodied demo

test: $(INSTALLED)
	@$(PYTEST) $(DEFAULT)

test-fast: $(INSTALLED)
	@$(PYTEST) $(DEFAULT) tests/embodied tests/test_layout.py tests/test_results.py

test-slow: $(INSTALLED)
	@$(PYTEST) -m "slow and not gpu and not network"

bench: $(INSTALLED)
	@$(BIN)/python -m experiments.bench.update

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

lock:
	uv pip compile pyproject.toml -o requirements.lock --extra dev --extra tensorboard --extra export --extra serve --extra ogbench --extra metaworld --group build --group metaworld \
	  --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	  --no-header --no-annotate -q $(UPGRADE:%=--upgrade-package %)

clean:
	rm -rf .venv .cache build dist .pytest_cache .ruff_cache .mypy_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' is not Python 3.11 to 3.14; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "setup 1/3  creating .venv"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

$(INSTALLED): .venv/bin/python
	@echo "setup 2/3  installing the locked packages (once, about a minute)"
	@$(PIP) --require-hashes -r requirements.lock
	@echo "setup 3/3  installing embodied-stack"
	@$(PIP) --no-build-isolation -e .
	@rm -f .venv/.installed-*
	@touch $@
