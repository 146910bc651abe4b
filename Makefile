# The two commands of a newcomer are `make run` and `make test`; `make check` is what a change must pass.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
COMPILED := .venv-compiled
# What shows that the compiled build does what the source does. What measures patience or load, is about modules that are
# not compiled, or replaces what they have bound, is left to the source.
NOT_COMPILED := wire/test_fuzz wire/test_slow_clients wire/test_client_resolver wire/test_faithful_spools \
  service/test_admin_* service/test_embedding service/test_health service/test_node_changes service/test_reload \
  service/test_start service/test_verbs
COMPILED_TESTS := tests/contract tests/wire tests/service tests/e2e/test_compiled_build.py \
  $(wildcard tests/unit/test_journal_*.py) tests/unit/test_latch.py tests/unit/test_readiness.py \
  tests/unit/test_spool.py tests/e2e/test_kill_spawn.py::test_nothing_acknowledged_is_lost_when_spawn_is_killed \
  $(NOT_COMPILED:%=--ignore-glob='tests/%.py')
ARGS   ?=
# Whole runs share the tests among so many processes: most tests wait for something, most of the time.
JOBS   ?= 2
PARALLEL = $(if $(ARGS),,--numprocesses=$(JOBS) --dist=worksteal)
MINUTES ?= 15
SEED   ?=
TARGET ?=
REPLAY ?=

.PHONY: help run test compiled test-compiled faults soak fuzz bench backlog check format lint types test-deps clean
.DEFAULT_GOAL := help

help:
	@echo "make run        start Spawn in test mode (ARGS='--config=…' passes flags on)"
	@echo "make test       every test, two at a time (JOBS=0: one after the other; ARGS='-k name' passes flags on to"
	@echo "                pytest instead, and leaves out test-compiled)"
	@echo "make compiled   build Spawn compiled by mypyc, as a wheel, and install it in $(COMPILED) (needs a C compiler)"
	@echo "make test-compiled  the tests of what requests run through, with the compiled build"
	@echo "make faults     the fault suite alone (SPAWN_FAULT_SEED=N repeats a kill loop and a history)"
	@echo "make soak       the fault suite's long form (MINUTES=15 SEED=N)"
	@echo "make fuzz       fuzz the HTTP codec (MINUTES=10 TARGET=request, REPLAY=file shows what one input does)"
	@echo "make bench      measure Spawn, compiled, beside nginx and HAProxy (ARGS='--rows=get,post'; needs nginx, haproxy"
	@echo "                and wrk; ARGS=--python=$(BIN)/python measures the source)"
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

# pip builds away from the source, but setuptools keeps what it has copied and built in build/.
$(COMPILED)/.built: setup.py pyproject.toml $(shell find build_support spawn spawnctl init -type f -not -name '*.pyc')
	[ -x $(COMPILED)/bin/python ] || $(PYTHON) -m venv $(COMPILED)
	rm -rf build/lib* build/bdist* $(COMPILED)/dist
	SPAWN_COMPILE=1 $(COMPILED)/bin/python -m pip wheel --quiet --disable-pip-version-check \
	  --no-deps --wheel-dir $(COMPILED)/dist .
	wheel=$$(ls $(COMPILED)/dist/*.whl) && $(COMPILED)/bin/python -m pip install --quiet --disable-pip-version-check \
	  "$$wheel[test]" && $(COMPILED)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --force-reinstall --no-deps $$wheel
	@touch $@

compiled: $(COMPILED)/.built

# With job control Ctrl-C goes to spawnctl alone, else make would end with 130 although spawnctl ended with 0.
run: $(BIN)/.runtime
	@if [ -t 0 ]; then set -m; fi; $(BIN)/spawnctl -t $(ARGS)

test: $(BIN)/.tools
	@if [ "$$CI" = true ]; then $(MAKE) --no-print-directory test-deps; \
	elif [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then \
	  echo "root on Debian: installing the system programs that some tests use"; $(MAKE) --no-print-directory test-deps; fi
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)
	@$(if $(ARGS),,if [ "$$CI" = true ] || command -v $${CC:-cc} >/dev/null; then \
	  $(MAKE) --no-print-directory test-compiled; else echo "no C compiler: the compiled build is not tested"; fi)

# From a copy of the tests, beside which there is no source that could be imported instead.
test-compiled: $(COMPILED)/.built
	rm -rf $(COMPILED)/copy && mkdir $(COMPILED)/copy && cp -R tests bench docs pyproject.toml README.md $(COMPILED)/copy
	cd $(COMPILED)/copy && ../bin/python -m pytest --compiled $(PARALLEL) $(or $(ARGS),$(COMPILED_TESTS))

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

bench: $(BIN)/.runtime $(COMPILED)/.built
	@if [ -t 0 ]; then set -m; fi; $(BIN)/python -m bench --python=$(COMPILED)/bin/python $(ARGS)

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
	rm -rf $(VENV) $(COMPILED) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
