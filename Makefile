# Everything a newcomer, a developer or CI does. `make` alone lists the targets.

PYTHON ?= python3
# pip's arguments for torch, installed before all else. The default is the CPU build, so that a
# machine without a GPU gets no CUDA packages; it comes from the folder in PIP_FIND_LINKS where one
# is set, else from PyTorch's own index. For a GPU: make up TORCH=torch==2.13.0
TORCH ?= torch==2.13.0 $(if $(PIP_FIND_LINKS),,--extra-index-url https://download.pytorch.org/whl/cpu)

BIN := .venv/bin
INSTALLED := .venv/.installed
FAULTS := strikes-sqlite strikes-postgres faults-sqlite faults-postgres
STRIKES := $(patsubst %,tests/faults/test_%.py,kills zombies crash_points real_trainer)
TESTS := test-models test-service
MODELS := $(patsubst %,tests/%,bench e2e starter training)
CONTRACTS := tests/test_contracts.py tests/app/test_migrations.py

.DEFAULT_GOAL := help
.PHONY: help install up demo test $(TESTS) test-faults $(FAULTS) bench-ledger bench-main-job bench-serving bench-training check format openapi env clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Make .venv and install the pinned packages (variables: TORCH, PYTHON)

# The stamp is the last step: an interrupted installation is taken up again, a whole one costs nothing.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Almanac needs Python 3.11 or newer: make up PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,bench,dev]'
	@touch $@

up: $(INSTALLED) ## Run the service here: api, engine and worker on http://127.0.0.1:8000
	@exec $(BIN)/almanac up

demo: $(INSTALLED) ## Teach the running service 21 facts and watch it answer
	@$(BIN)/almanac demo

test: $(INSTALLED) ## Run the whole test suite (needs PostgreSQL and Redis on this machine)
	@$(MAKE) -j2 $(TESTS)

# One computes, the other mostly waits: for leases, processes, databases.
test-models:
	$(BIN)/python -m pytest $(MODELS)

test-service:
	$(BIN)/python -m pytest tests $(MODELS:%=--ignore=%)

test-faults: $(INSTALLED) ## Break it for minutes: kills, crash points, zombies (FAULT_SCALE=0.1 for less)
	@$(MAKE) -j4 -Otarget $(FAULTS)

# Each database with its broker, in two processes: all wait for leases most of the time.
$(FAULTS):
	$(BIN)/python -m pytest $(if $(findstring strikes,$@),$(STRIKES),tests/faults $(STRIKES:%=--ignore=%)) -k "$(lastword $(subst -, ,$@))$(if $(findstring faults-sqlite,$@), or byte)" --basetemp=$$(mktemp -d)/faults

bench-main-job: $(INSTALLED) ## Measure the main job here: times, right answers, memory
	$(BIN)/python -m tasks.bench.main_job

bench-ledger: $(INSTALLED) ## Measure a ledger from 10 k to 1 M facts on SQLite (variable: LEDGER=URL of an empty database)
	$(BIN)/python -m tasks.bench.ledger --database $${LEDGER:-sqlite:///$$(mktemp -d)/ledger.db}

bench-serving: $(INSTALLED) ## Measure serving here and write docs/performance.md (some minutes)
	$(BIN)/python -m tasks.bench.serving

bench-training: $(INSTALLED) ## Measure the trainer here against a plain loop, for docs/performance.md (hours; goes on where it was)
	$(BIN)/python -m tasks.bench.training

check: $(INSTALLED) ## Format, lint, types, import rules, contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(CONTRACTS)

format: $(INSTALLED) ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

openapi: $(INSTALLED) ## Write docs/openapi.json anew, after a change of routes or schemas
	$(BIN)/python -c 'import json, app.main; print(json.dumps(app.main.create_app().openapi(), indent=1))' > docs/openapi.json

env: $(INSTALLED) ## Write .env.example anew, after a change of settings
	$(BIN)/python -c 'import app.cli.settings as s; print(s.env_example(), end="")' > .env.example

clean: ## Remove .venv and caches; data/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
