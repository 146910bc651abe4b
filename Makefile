# The two commands of a newcomer are `make run` and `make test`; `make check` is what a change must pass.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=
MINUTES ?= 15
SEED   ?=
TARGET ?=
REPLAY ?=

.PHONY: help run test faults soak fuzz bench backlog check format lint types test-deps clean
.DEFAULT_GOAL := help

help:
	@echo "make run        start Spawn in test mode (ARGS='--config=…' passes flags on)"
	@echo "make test       every test (ARGS='-k name' passes flags on to pytest)"
	@echo "make faults     the fault suite alone (SPAWN_FAULT_SEED=N repeats a kill loop and a history)"
	@echo "make soak       the fault suite's long form (MINUTES=15 SEED=N)"
	@echo "make fuzz       fuzz the HTTP codec (MINUTES=10 TARGET=request, REPLAY=file shows what one input does)"
	@echo "make bench      measure Spawn beside nginx and HAProxy (ARGS='--rows=get,post'; needs nginx, haproxy and wrk)"
	@echo "make backlog    measure a node that returns with a backlog of 1,000,000 updates (needs nginx and wrk)"
	@echo "make check      format, lint, types, tests"
	@echo "make format     let ruff format the code"
	@echo "make test-deps  install the system programs that some tests use (Debian, root)"
	@echo "make clean      remove everything that the commands above made"

$(BIN)/.runtime: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(BIN)/.tools: $(BIN)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,dev]'
	@touch $@

# With job control Ctrl-C goes to spawnctl alone, else make would end with 130 although spawnctl ended with 0.
run: $(BIN)/.runtime
	@if [ -t 0 ]; then set -m; fi; $(BIN)/spawnctl -t $(ARGS)

test: $(BIN)/.tools
	@if [ "$$CI" = true ]; then $(MAKE) --no-print-directory test-deps; \
	elif [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then \
	  echo "root on Debian: installing the system programs that some tests use"; $(MAKE) --no-print-directory test-deps; fi
	$(BIN)/python -m pytest $(ARGS)

faults: $(BIN)/.tools
	$(BIN)/python -m pytest tests/e2e/faults $(ARGS)

soak: $(BIN)/.tools
	@if [ -t 0 ]; then set -m; fi; \
	$(BIN)/python -m tests.support.soak --minutes=$(MINUTES) $(if $(SEED),--seed=$(SEED)) $(ARGS)

fuzz: MINUTES = 10
fuzz: $(BIN)/.tools
	@if [ -t 0 ]; then set -m; fi; \
	$(BIN)/python -m tests.fuzz --minutes=$(MINUTES) $(if $(TARGET),--target=$(TARGET)) \
	  $(if $(REPLAY),--replay=$(REPLAY)) $(ARGS)

bench: $(BIN)/.runtime
	@if [ -t 0 ]; then set -m; fi; $(BIN)/python -m bench $(ARGS)

backlog: $(BIN)/.runtime
	$(BIN)/python -m bench.backlog $(ARGS)

check: $(BIN)/.tools
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@$(MAKE) --no-print-directory test

format: $(BIN)/.tools
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(BIN)/.tools
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(BIN)/.tools
	$(BIN)/mypy

test-deps:
	@sh tests/system-programs.sh

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
