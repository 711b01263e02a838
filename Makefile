# make run    sets up what is missing, learns a text online            (the main job)
# make test   sets up what is missing, runs the tests                  (slow ones too: make test-all)
# make oldest sets up the oldest versions that pyproject.toml allows, in .venv-oldest, and runs the tests with them
# make audit  asks for known faults of the packages that are installed
PYTHON ?= python3.11
BIN := .venv/bin
TEST := $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: run test test-all check oldest audit clean

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

oldest: .venv-oldest/done
	.venv-oldest/bin/python -m pytest -q -m "not slow" --numprocesses auto --maxprocesses 4 --dist worksteal

audit: .venv/dev .venv-audit/bin/pip-audit
	$(BIN)/python tests/audit.py .venv-audit/bin/pip-audit

.venv-oldest/done: pyproject.toml
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/pip install --quiet uv
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct --editable ".[dev]"
	touch $@

.venv-audit/bin/pip-audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet pip-audit

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[fast]"
	touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@ .venv/run

clean:
	rm -rf .venv .venv-oldest .venv-audit .mypy_cache .ruff_cache .pytest_cache site
