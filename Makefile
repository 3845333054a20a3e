# Integration Week: every target sets up what it needs by itself. `make` alone explains them.
#
#   make run VENV= PYTHON=python3     uses an interpreter where everything is already there (no install)

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

ifeq ($(strip $(VENV)),)
PY := PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON)
READY :=
else
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
endif

.DEFAULT_GOAL := help
.PHONY: help setup run test lab export doctor bench next clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: $(READY) ## install what the workbook needs (the other targets do it themselves)

run: $(READY) ## execute every notebook headless; results in runs/<date-time>/
	@$(PY) -m helpers.run $(ARGS)

CODE := helpers tests benchmarks explore_server_mode.py notebooks

test: $(READY) ## check the form of the code (ruff), run the tests
	@$(PY) -m ruff format -q --check $(CODE) && $(PY) -m ruff check -q $(CODE) || \
		{ echo "The code is not as ruff wants it: see above; ruff format and ruff check --fix help." >&2; exit 1; }
	@$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

lab: $(READY) ## open the notebooks in JupyterLab, on this machine only
	@$(PY) -m helpers.run.jupyterlab $(ARGS)

export: $(READY) ## fill the documents from what was measured; a page to print and a zip beside them
	@$(PY) -m helpers.run export $(ARGS)

doctor: ## check this machine: [OK] or [FAIL], with what to do
	@$(if $(READY),[ -x $(PY) ] && exec $(PY) -m helpers.run.doctor $(ARGS) ||) PYTHONPATH="$(CURDIR)" $(PYTHON) -m helpers.run.doctor $(ARGS)

bench: $(READY) ## the speed and accuracy claims of the README, measured here
	@$(PY) -m benchmarks $(ARGS)

# Of another vLLM: the sentences about it, the flags that the notebooks use, the records made with it.
ASKS_VLLM := tests/statements tests/planning/test_rules.py tests/lessons/advanced_features/test_dry_run.py \
	tests/lessons/reading_notes/test_engine_args.py tests/lessons/reading_notes/test_then_and_now.py

next: ## what no longer holds with another vLLM for the CPU: make next VLLM=0.33.0
	@[ -n "$(VLLM)" ] || { echo "Say which vLLM: make next VLLM=0.33.0" >&2; exit 1; }
	@PYTHON="$(PYTHON)" VENV=".venv-$(VLLM)" VLLM="$(VLLM)" DEVICE=cpu ./setup.sh
	@echo "With vLLM $(VLLM), no longer true:"
	@PYTHONPATH="$(CURDIR)" ".venv-$(VLLM)/bin/python" -m pytest --tb=line -rN $(ASKS_VLLM) | \
		sed -nE '/^E /d; s/^[^ ]+:[0-9]+: (AssertionError: )?/  /p; $$p'

clean: ## remove the environment and caches; runs/ and results/ stay
	rm -rf .venv .venv-* .pytest_cache .hypothesis .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# The stamp is written last, so an install that failed or was interrupted is repaired by the next call.
$(VENV)/.ready: requirements.txt requirements-cpu.txt pyproject.toml setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" DEVICE="$(DEVICE)" ./setup.sh
