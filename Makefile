# What people type, and what .ci/run calls. Targets with a stamp file do nothing when it is newer than its sources.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BENCH_VENV := .bench-venv
BIN := $(VENV)/bin
PYTEST_ARGS ?= -n auto

.DEFAULT_GOAL := help
.PHONY: help setup demo test bench lint format clean

help: ## list these targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-8s %s\n", $$1, $$2 }'

setup: $(VENV)/.installed ## make .venv with the command `taskrunner` and the tools for development (PYTHON=… chooses the Python)

$(VENV)/.installed: requirements-dev.lock pyproject.toml scripts/make-venv
	@scripts/make-venv "$(PYTHON)" $(VENV)
	@touch $@

demo: setup ## run a task for real: an HTTP input, md5sum in a sibling container, the result in an S3 bucket
	@scripts/ensure-docker
	@$(BIN)/python -m scripts.demo

test: setup ## run the test suite on a real Docker Engine and real S3 servers (PYTEST_ARGS=…)
	@scripts/ensure-docker docker-registry openssl
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest $(PYTEST_ARGS)

bench: setup $(BENCH_VENV)/.installed ## transfers beside other tools, and a task beside `docker run` (BENCH_ARGS='--quick', '--help')
	@scripts/ensure-docker openssl
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

$(BENCH_VENV)/.installed: benchmarks/requirements.txt
	@echo "Installing what taskrunner is compared with into $(BENCH_VENV)"
	@"$(PYTHON)" -m venv --clear $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@echo '*' >$(BENCH_VENV)/.gitignore
	@touch $@

lint: setup ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and every cache
	rm -rf $(VENV) $(BENCH_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
