# Two commands: `make demo` and `make test`. Both begin with `make setup`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready

.PHONY: setup demo test lint bench long lock protos clean

setup: $(STAMP)  ## The .venv with everything in it

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Arbiter needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@command -v cc >/dev/null || command -v gcc >/dev/null || { \
	  echo "durable_rules is built from source and needs a C compiler. Install one: sudo apt-get install -y build-essential"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { \
	  echo "durable_rules is built from source and needs Python's headers: sudo apt-get install -y python3-dev"; exit 1; }
	@echo "Setting up .venv (a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: setup  ## A simulated shop, end to end
	@$(BIN)/python -m engine.demo

test: setup  ## Every test that belongs in CI
	@$(BIN)/python -m pytest

lint: setup  ## Style, types, architecture, spelling
	$(BIN)/ruff check engine tests benchmarks protos models rules
	$(BIN)/ruff format --check engine tests benchmarks protos models rules
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell engine tests benchmarks docs rules mappings protos *.md

bench: setup  ## Every benchmark, in turn, beside the peers that it names
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@for name in $$($(BIN)/python -m benchmarks); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name || exit 1; done

long: setup  ## Soak, fuzz and long differential runs
	@ARBITER_LONG=1 $(BIN)/python -m pytest

lock: setup  ## Renew requirements.txt from pyproject.toml
	@$(BIN)/pip-compile --quiet --extra otel --extra cluster --extra dev --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	  --no-header --annotation-style line --strip-extras -o requirements.txt pyproject.toml

protos: setup  ## Generate the protobuf code anew
	@$(BIN)/python protos/generate.py

clean:
	rm -rf .venv build dist *.egg-info
