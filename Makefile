.DEFAULT_GOAL := help
.PHONY: help setup fix lint types imports fast check test test-gpu chaos cover up demo lock wheel migration clean

PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8000
MINUTES ?= 60
# Pinned, so that the same files are installed next year.
UV := 0.13.9

# Without its bytecode each of the many processes here compiles what it imports, for seconds.
unexport PYTHONDONTWRITEBYTECODE

help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z%-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## install everything into .venv; the other targets do it by themselves

.venv/ready: requirements/dev.txt pyproject.toml client/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ echo "on Debian: apt install python3-venv"; rm -rf .venv; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e . -e client
	@touch $@

fix: setup ## format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: setup ## style, spelling and wording, without changing a file
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/python tools/check_prose.py

types: setup ## mypy, strict
	$(BIN)/mypy

imports: setup ## who may import whom
	$(BIN)/lint-imports

fast: setup ## the tests that need no PostgreSQL, no Ray and no patience
	$(BIN)/pytest

check: lint types imports fast ## run it before every push

test: setup ## all tests that need no GPU
	$(BIN)/pytest -m "not gpu and not ray" --numprocesses 2 --dist loadfile
	$(BIN)/pytest -m "not gpu and ray"

test-gpu: setup ## the tests that need a GPU, on a machine that has one
	$(BIN)/pytest -m gpu

chaos: setup ## kill processes at random while jobs run, and see that nothing is lost; MINUTES=60 SEED=
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

cover: setup ## all tests that need no GPU, with coverage
	$(BIN)/coverage run -m pytest -m "not gpu"
	$(BIN)/coverage report

up: setup ## the service in the foreground until Ctrl-C; PORT=8000
	@$(BIN)/python -m deploy.local --port $(PORT)

demo: setup ## train a plain and a residual network through the whole service
	@$(BIN)/python -m deploy.demo

bench-%: setup ## a benchmark; what there is: ls benchmarks
	@$(BIN)/python -m benchmarks.$*

lock: setup ## pin the newest versions that fit
	$(BIN)/uv pip compile $(LOCK) pyproject.toml client/pyproject.toml --all-extras --group dev -o requirements/dev.txt

LOCK := --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url

wheel: setup ## build the wheels of the server and of the client
	$(BIN)/uv build --quiet --wheel --out-dir dist .
	$(BIN)/uv build --quiet --wheel --out-dir dist client

migration: setup ## a new migration: make migration name="add priority to jobs"
	$(BIN)/alembic -c service/storage/migrations/alembic.ini revision --autogenerate -m "$(name)"

clean: ## remove what was built; var/ with its jobs stays
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
