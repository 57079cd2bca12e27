# `make quickstart` and `make test` do all the set-up themselves.

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint format docs browser test-matrix benchmark wheel clean

PYTEST_OPTIONS ?= -n 2 --dist loadfile

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: ## Install everything into .venv (returns at once when done before)
	@scripts/setup.sh

quickstart: setup ## Train two strategies on a task sequence from pixels, roll out, report (under 10 minutes)
	@.venv/bin/vla-cl run --preset quickstart strategy=sequential,replay --jobs 2

lint: setup ## Style, types and layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format: setup ## Rewrite the code in the project's style
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

docs: setup ## Build the site into site/
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

# One thread a process: the test processes share the cores.
test: export OMP_NUM_THREADS ?= 1
test: lint docs browser ## Everything that must hold: lint, docs, tests
	.venv/bin/python -m pytest $(PYTEST_OPTIONS)

browser: setup  # Chromium, where it may be installed; the tests of pages are skipped without
	@scripts/setup.sh --browser

test-matrix: setup ## Every strategy with every head on every backbone (an hour)
	.venv/bin/python -m pytest $(PYTEST_OPTIONS) --dist load -m matrix tests/strategies/test_matrix.py

benchmark: setup ## Rollout speed, side by side with stock Meta-World
	.venv/bin/python benchmarks/rollout.py

wheel: setup ## Build a wheel into dist/
	.venv/bin/python -m pip wheel --no-deps --wheel-dir dist .

clean: ## Remove what was built (keeps .venv, runs/ and demonstrations/)
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
