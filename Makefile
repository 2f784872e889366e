# Everything a new user runs. Each target first makes .venv current from the hashed lock file.
SHELL := /bin/bash
PYTHON ?= python3.11
EXTRA ?= cpu
LOCK := requirements/$(EXTRA).txt
STAMP := .venv/weighbridge-lock.sha256
# Modules share servers and engines, so each goes whole to one of two processes. Long checks of
# timing and memory run alone.
PARALLEL ?= -n 2 --dist loadfile
RUN := . .venv/bin/activate &&

# PyTorch's CPU wheel is not on the package index. Where PIP_FIND_LINKS names a folder that has it,
# uv is told of it; elsewhere set UV_EXTRA_INDEX_URL or UV_FIND_LINKS to PyTorch's CPU index.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_INDEX_STRATEGY ?= unsafe-best-match
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Every dvc command imports a thousand modules: without bytecode files, that is a second each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long lint bench setup test-packages lock clean

demo: setup
	@$(RUN) weighbridge demo

test: setup test-packages
	@$(RUN) python -m pytest -q tests $(PARALLEL) $(ARGS)

test-long: setup test-packages
	@$(RUN) python -m pytest -q tests --long $(ARGS)

lint: setup
	@$(RUN) ruff check . && ruff format --check . && mypy && lint-imports

bench: setup
	@$(RUN) python -m benchmarks $(ONLY)

setup:
	@infra/setup.sh "$(PYTHON)" "$(LOCK)" "$(STAMP)"

# Tests drive a real browser and a real database; where this user may install packages, they are fetched.
test-packages:
	@infra/test-packages.sh

# Re-resolve the lock files. They name no index, so that they serve behind any mirror.
COMPILE := .venv/bin/uv pip compile pyproject.toml --extra dev --python-version 3.11 \
  --override requirements/overrides.txt --generate-hashes --no-emit-index-url \
  --no-emit-find-links --quiet
lock: setup
	@$(COMPILE) --extra cpu -o requirements/cpu.txt
	@UV_FIND_LINKS= $(COMPILE) --extra gpu --python-platform x86_64-manylinux_2_28 -o requirements/gpu.txt

clean:
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
