# make demo    set everything up and watch a model learn (a few minutes)
# make test    set everything up and prove it
# make check   format, lint, types, imports, generated files
# make real, make test-real    the same on Apache Kafka and Ollama themselves
# make help    the rest

.DEFAULT_GOAL := help
PY := .venv/bin/python
# Bytecode is kept even where the surroundings say not to: every process of the loop imports large packages.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo up test real test-real long bench check format generate pins clean

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## create .venv and install from the pins; nothing to do the second time
	@infra/setup

demo: setup ## the whole loop on real input: watch a model learn (ARGS="--keep" leaves it running)
	@.venv/bin/ruminate demo $(ARGS)

up: setup ## broker, node and services, until Ctrl-C (ARGS="--kafka HOST:PORT --node URL --base MODEL")
	@.venv/bin/ruminate up $(ARGS)

# Tests wait for a broker or a process a third of the time: three at once on two cores, a file's tests on one worker. Real brokers
# and nodes have work of their own beside them.
WORKERS := -n 3 --dist loadfile --no-loadscope-reorder
REAL_WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
# They have two cores between them: threads that torch takes beside would wait for each other most of the time.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest

test: setup ## the short form of every test on the embedded parts (ARGS="-k name" picks some)
	@$(PYTEST) $(WORKERS) $(ARGS)

real: setup ## install Apache Kafka, Ollama, old and new, MLflow and Unsloth into a cache outside of the checkout
	@$(PY) -m infra.real install $(ARGS)

test-real: setup ## the short form of every test on what `make real` installs
	@$(PYTEST) -m 'real and not long and not gpu' $(REAL_WORKERS) $(ARGS)

long: setup ## the long form, embedded and real: more seeds, more kills, larger data
	@$(PYTEST) -m 'long and not gpu' --timeout 3600 $(ARGS)

bench: setup ## ours beside quixstreams and Faust on Apache Kafka: tables, no gate (ARGS="--only pipe --rounds 1 --messages 100000")
	@$(PY) -m tests.benchmarks $(ARGS)

check: setup ## format, lint, types, imports, generated files are current
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo
	@$(PY) infra/generate --check

format: setup ## format the code and mend what lint can mend
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

generate: setup ## write the generated files: JSON Schemas, AsyncAPI, drawing, .env.example, metrics, differences
	@$(PY) infra/generate

pins: setup ## resolve the dependencies; what is pinned stays where it can (ARGS="--upgrade" takes the newest)
	@infra/pins $(ARGS)

clean: ## remove .venv and what a run has left
	@rm -rf .venv .ruminate .learning .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
