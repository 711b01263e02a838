# make run    sets up what is missing, learns a text online            (the main job)
# make test   sets up what is missing, runs the tests                  (slow ones too: make test-all)
PYTHON ?= python3.11
BIN := .venv/bin
TEST := $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: run test test-all check clean

run: .venv/run
	$(BIN)/python train.py

test: .venv/dev
	$(TEST) -m "not slow"

test-all: .venv/dev
	$(TEST) --durations=10

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict --quiet

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[fast]"
	touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@ .venv/run

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache site
