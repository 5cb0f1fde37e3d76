# What one does with this repository; `make` alone lists it. Needs Python 3.11 or 3.12; a JDK 17 and Maven for a
# local Kafka broker. PYTHON chooses the interpreter of a new environment: make setup PYTHON=python3.12
SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.11 python3.12; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; \
	done)
BIN := .venv/bin
STAMP := .venv/.installed
PATHS := $(wildcard flowstream agents tests bench deploy)

.DEFAULT_GOAL := help
.PHONY: help setup jars test faults fuzz lint audit lock fmt demo bench bench-growth bench-peers testbed-up testbed-down testbed-demo \
	testbed-check clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) jars ## make .venv with everything, and fetch the jars of the local Kafka broker

$(STAMP): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or 3.12 found; name one: make setup PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "installing flowstream and its development tools into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@touch $@

# A missing broker stops neither the setup nor the unit tests: one line says what is missing.
jars: $(STAMP)
	@$(BIN)/python -m agents.kafka_jars || true

# Two processes, for half of the time is spent waiting for workers and brokers; each has a broker of its own.
test: setup ## run all tests, with local Kafka brokers if FLOWSTREAM_TEST_BROKER names no other
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

faults: setup ## harm workers and brokers in every way of docs/reliability.md, and print what came of it
	@$(BIN)/python -m tests.faults $(ARGS)

fuzz: $(STAMP) .venv/.fuzz ## search a minute for each reader for bytes that break its law: ARGS='--seconds 600 --only goflow'
	@$(BIN)/python -m tests.fuzz $(ARGS)
	@$(BIN)/python -m pytest -q --timeout 0 --hypothesis-profile=fuzz tests/contracts tests/unit/decode

.venv/.fuzz: pyproject.toml
	@echo "installing atheris into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[fuzz]'
	@touch $@

lint: $(STAMP) ## check style and types, and say what is known against the dependencies
	@$(BIN)/ruff check $(PATHS)
	@$(BIN)/ruff format --check $(PATHS)
	@$(BIN)/mypy
	@.ci/audit || true

audit: $(STAMP) ## look for known vulnerabilities in the locked dependencies; needs the network
	@.ci/audit

lock: $(STAMP) ## bring requirements.lock up to date with pyproject.toml; `make lock UPGRADE=1` takes newer versions
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate --no-header \
		--no-emit-package pip $(if $(UPGRADE),--upgrade) -o requirements.lock pyproject.toml

fmt: $(STAMP) ## format the code and mend what can be mended
	@$(BIN)/ruff check --fix --exit-zero --quiet $(PATHS)
	@$(BIN)/ruff format $(PATHS)

demo: setup ## show it at work on a recording of a small data-centre fabric
	@$(BIN)/flowstream demo

bench: setup ## measure every row of the performance table against its target
	@$(BIN)/python -m bench

bench-growth: setup ## measure how the cost of a record grows
	@$(BIN)/python -m bench --growth

bench-peers: setup .venv-peers/.installed ## compare with Faust, Quix, Bytewax, Spark and others, job by job
	@$(BIN)/python -m bench.peers $(ARGS)

.venv-peers/.installed: bench/peers/requirements.txt
	@test -x .venv-peers/bin/python || { echo "making .venv-peers with $(PYTHON)"; $(PYTHON) -m venv .venv-peers; }
	@echo "installing the Python peers into .venv-peers"
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

testbed-up: setup ## build a real CLOS fabric with sFlow, collector, Kafka and worker: root, ARGS='--seed 2 --sampling 128'
	@$(BIN)/python -m deploy.testbed up $(ARGS)

testbed-down: setup ## end and remove the fabric, and only that
	@$(BIN)/python -m deploy.testbed down

testbed-demo: setup ## show elephants, talkers and a scan live on the fabric, and judge them by what was sent
	@$(BIN)/python -m deploy.testbed demo $(ARGS)

testbed-check: setup ## judge the recorded minute, and hold the top sources against nfdump's
	@$(BIN)/python -m deploy.testbed check
	@$(BIN)/python -m deploy.testbed top-sources $(ARGS)

clean: ## remove the environment, caches, local broker and build products
	@rm -rf .venv .venv-peers .flowstream .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist bench/out
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
