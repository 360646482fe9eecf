.DEFAULT_GOAL := help
.PHONY: help setup dashboard fix lint types imports web fast check test test-without-ray test-with-ray test-gpu test-hosts test-containers chaos cover up demo study simulate screenshots docs lock wheel migration clean

PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8000
MINUTES ?= 60
STUDY ?= fig6
SCALE ?= smoke
JOBS ?= 1000
NODES ?= 20
DATABASE ?= sqlite
# Pinned, so that a later setup installs the same files.
UV := 0.13.9

# Without bytecode files each process compiles the modules that it imports, for seconds.
unexport PYTHONDONTWRITEBYTECODE

help: ## print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z%-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready .venv/dashboard ## install everything into .venv, build the dashboard; other targets do so when needed

.venv/ready: requirements/dev.txt pyproject.toml client/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ echo "on Debian: apt install python3-venv"; rm -rf .venv; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e . -e client
	@touch $@

WEB_SOURCES := $(shell find web -path web/node_modules -prune -o -type f -print)

# The stamp is written even where Node.js cannot be had: the next command does not try again.
.venv/dashboard: .venv/ready tools/web.py $(WEB_SOURCES)
	@$(BIN)/python -m tools.web build
	@touch $@

dashboard: .venv/ready ## build the dashboard into api/static, also if it is current
	@$(BIN)/python -m tools.web build
	@touch .venv/dashboard

fix: setup ## format the code and apply automatic fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cd web && npm run --silent fix

lint: setup ## style, spelling and wording, without changing a file
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/python tools/check_prose.py

types: setup ## mypy, strict
	$(BIN)/mypy

imports: setup ## check the import rules between packages
	$(BIN)/lint-imports

web: setup ## style, types and tests of the dashboard, and whether its API types are current
	@$(BIN)/python -m tools.web check

fast: setup ## run the tests that need neither PostgreSQL nor Ray and take seconds
	$(BIN)/pytest

check: lint types imports web fast ## run all quick checks before a push

# Ray's tests wait for most of their time: they run beside the others.
test: setup ## run all tests that need no GPU
	@$(MAKE) --no-print-directory --jobs=2 test-without-ray test-with-ray

# A browser keeps an event loop running in its process, in which no other test can start one.
test-without-ray: setup
	$(BIN)/pytest -m "not gpu and not ray and not hosts and not containers" --ignore tests/web --numprocesses 2 --dist loadfile
	$(BIN)/pytest -m "not gpu and not ray" tests/web --numprocesses 2 --dist loadfile
	@$(BIN)/python -m tools.web check

test-with-ray: setup
	@output=$$(mktemp); $(BIN)/pytest -m "not gpu and ray" $(RAY_TESTS) > $$output 2>&1; \
		status=$$?; cat $$output; rm $$output; exit $$status

# Importing all test modules for those with Ray takes half a minute.
RAY_TESTS = $(shell grep --recursive --files-with-matches --include='test_*.py' 'mark\.ray' tests)

test-gpu: setup ## run the tests that need a GPU
	$(BIN)/pytest -m gpu

test-hosts: setup ## run the service and a Ray cluster on four network namespaces; needs root
	$(BIN)/pytest -m hosts tests/hosts --durations=0 --durations-min=1

test-containers: setup ## run docker-compose.yml on a Docker engine of its own; needs root
	$(BIN)/pytest -m containers tests/containers

chaos: setup ## inject random faults while jobs run, then check all invariants; MINUTES=60 SEED=
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

cover: setup ## run all tests that need no GPU, with coverage
	$(BIN)/coverage run -m pytest -m "not gpu and not hosts and not containers"
	$(BIN)/coverage report

up: setup ## run the service in the foreground until Ctrl-C; PORT=8000
	@$(BIN)/python -m deploy.local --port $(PORT)

demo: setup ## train a plain and a residual network through the service; OPEN=1 keeps it up
	@$(BIN)/python -m deploy.demo $(if $(OPEN),--open)

study: setup ## run a study of the paper and write its reports; STUDY=fig6 SCALE=smoke SEEDS= DATASET= DATA=
	@$(BIN)/python -m deploy.study $(STUDY) --scale $(SCALE) $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(DATASET),--dataset $(DATASET)) $(if $(DATA),--data $(DATA))

simulate: setup ## run the queue with a real database and simulated nodes; JOBS=1000 NODES=20 DATABASE=sqlite HISTORY=
	@$(BIN)/python -m benchmarks.simulate --jobs $(JOBS) --nodes $(NODES) --database $(DATABASE) \
		$(if $(HISTORY),--history $(HISTORY))

screenshots: setup ## train some jobs and write the pictures of the documentation
	@$(BIN)/python -m tools.screenshots

bench-%: setup ## run a benchmark: control demo fair_share gpu launch loading memory metrics search throughput train wakeups web
	@$(BIN)/python -m benchmarks.$*

docs: setup ## write the reference pages that follow from the code
	$(BIN)/python -m tools.generate_reference
	@$(BIN)/python -m tools.async_stub
	@$(BIN)/python -m tools.web types

lock: setup ## pin the newest compatible versions
	$(BIN)/uv pip compile $(LOCK) pyproject.toml client/pyproject.toml --all-extras --group dev -o requirements/dev.txt

LOCK := --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url

wheel: setup ## build the wheels of the server and of the client
	$(BIN)/uv build --quiet --wheel --out-dir dist .
	$(BIN)/uv build --quiet --wheel --out-dir dist client

migration: setup ## create a migration: make migration name="add priority to jobs"
	$(BIN)/alembic -c service/storage/migrations/alembic.ini revision --autogenerate -m "$(name)"

clean: ## remove .venv, builds and caches; keep var/ with its jobs
	rm -rf .venv build dist api/static web/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
