# mlx-chandra: everything a developer or a curious reader runs. `make help` lists it.
#
# Each environment is a folder of its own, made from exact versions (requirements/*.txt). Its stamp file says
# that it is complete: while pyproject.toml and the lock are older than the stamp, nothing is asked of the
# network, so the second run works offline.

UV_VERSION := 0.13.9
PIP_INSTALL := -m pip install --disable-pip-version-check --quiet --quiet
PYTEST_ARGS ?=

# The first Python that is new enough; `make PYTHON=/path/to/python3.12 ...` overrides it.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	if "$$p" -c "$(NEW_ENOUGH)" >/dev/null 2>&1; then command -v "$$p"; break; fi; done)

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types parity check installcheck bench options lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: .venv/.ready ## read examples/pages into results.csv with the demo checkpoint
	.venv/bin/mlx-chandra ocr --images-dir examples/pages --model demo --output results.csv --overwrite
	@.venv/bin/mlx-chandra show results.csv

test: .venv-test/.ready ## the tests that need neither torch nor a GPU nor a network
	.venv-test/bin/python -m pytest -n 2 --dist loadfile -m "not parity" $(PYTEST_ARGS)

lint: .venv-test/.ready ## ruff: rules and formatting
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .

format: .venv-test/.ready ## let ruff rewrite the files
	.venv-test/bin/ruff check --fix .
	.venv-test/bin/ruff format .

types: .venv-test/.ready ## mypy, strict
	.venv-test/bin/mypy src tools benchmarks

parity: .venv-check/.ready ## compare with transformers and mlx-vlm, live
	.venv-check/bin/python -m pytest -m parity -rs --no-skips $(PYTEST_ARGS)

check: lint types parity ## lint, types and parity

# Outside of the checkout and without the locks: what pip resolves today is what a user gets.
installcheck: ## install as a user does, in a new environment elsewhere, and read one page
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && unset PYTHONPATH && \
	"$(PYTHON)" -m venv "$$folder/venv" && \
	"$$folder/venv/bin/python" $(PIP_INSTALL) "$(CURDIR)[cpu]" && \
	cp examples/pages/label.png "$$folder" && cd "$$folder" && \
	venv/bin/mlx-chandra ocr label.png --model demo --output results.csv && \
	grep -q ',ok,' results.csv

bench: .venv-bench/.ready ## engines side by side on this machine, with the demo checkpoint
	.venv-bench/bin/python -m benchmarks.run --workload WD $(or $(BENCH_ARGS),--pages 4)

.venv/.ready: requirements/demo.txt
.venv-test/.ready: requirements/test.txt
.venv-check/.ready: requirements/check.txt
.venv-bench/.ready: requirements/bench.txt

.venv/.ready .venv-test/.ready .venv-check/.ready .venv-bench/.ready: pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "mlx-chandra needs Python 3.11 or newer, and none was found." \
		"Install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; fi
	@"$(PYTHON)" -c "$(NEW_ENOUGH)" || { echo "$(PYTHON) is older than Python 3.11, which mlx-chandra needs." \
		"Name a newer one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@echo "Making the environment $(@D) (once; a few minutes, depending on the network)"
	@"$(PYTHON)" -m venv --clear $(@D)
	@$(@D)/bin/python $(PIP_INSTALL) -r $(firstword $(filter requirements/%,$^))
	@$(@D)/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

options: .venv-test/.ready ## write docs/options.md anew, after an option was added
	.venv-test/bin/python -m tools.options_page

# The locks hold for Linux and macOS and for Python 3.11 and up; they are consumed with pip alone.
# check.txt is resolved first and binds the others, so that all agree.
COMPILE := .venv-lock/bin/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
	--upgrade --custom-compile-command "make lock" --extra cpu pyproject.toml
lock: ## resolve requirements/*.txt anew
	"$(PYTHON)" -m venv .venv-lock
	.venv-lock/bin/python $(PIP_INSTALL) uv==$(UV_VERSION)
	$(COMPILE) --group parity --group lint --output-file requirements/check.txt
	$(COMPILE) --constraint requirements/check.txt --group test --group lint --output-file requirements/test.txt
	$(COMPILE) --constraint requirements/check.txt --group build --output-file requirements/demo.txt
	$(COMPILE) --constraint requirements/check.txt --group bench --output-file requirements/bench.txt

clean: ## remove the environments and what was built
	rm -rf .venv .venv-test .venv-check .venv-bench .venv-lock build dist results.csv .results.csv.*
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find examples/pages -name '*_ocr.txt' -delete
