# Everything a newcomer needs; `make` alone lists it.
#
#   make demo                    MovieLens 100K (fetched), the whole path
#   make demo DATA=fixture       a tiny data set, in about two minutes
#   make demo DATA=/data/ml-100k your own copy of MovieLens 100K
#   make demo FORCE=1            redo what is already there
#
# ARGS='key=value …' changes settings, STORAGE=/path or a URI moves runs/ elsewhere. Pip takes its index from your pip configuration or PIP_INDEX_URL.

SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help
.SUFFIXES:
# Every process imports the same libraries, 3 s with byte code and 9 s without: the first import writes it, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PY := $(VENV)/bin/python
INSTALLED ?= $(VENV)/.installed
EXTRAS := minilm,lora,dev
# No byte code is written ahead: it doubles the time, and most of it is never imported.
PIP := $(PY) -m pip --disable-pip-version-check install --no-compile --progress-bar off

DATA ?=
FORCE ?=
STORAGE ?=
ARGS ?=
WHERE := $(if $(STORAGE),--storage '$(STORAGE)')
DEMO := $(PY) -m ray_jobs.demo $(if $(DATA),--data '$(DATA)') $(WHERE)

SPACE ?= dllm2rec-weights
CONFIG ?= ray_jobs/configs/demo.yaml

.PHONY: help install demo sweep serve ui test test-full check bench lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make the virtual environment .venv (once)

# Torch comes first and alone: a looser requirement lets pip choose builds with gigabytes of GPU libraries.
$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
		{ echo "error: Python 3.11 is needed; name it with make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "install 1/3: virtual environment $(VENV)"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "install 2/3: torch"
	@$(PIP) -qq -c requirements.lock "$$(grep '^torch==' requirements.lock)"
	@echo "install 3/3: $$(grep -c '==' requirements.lock) packages of requirements.lock"
	@PYTHONUNBUFFERED=1 $(PIP) --no-deps -r requirements.lock 2>&1 | awk \
		'/^(Collecting|Processing|Requirement already)/ {if (++n % 25 == 0) {print "  " n " found"; fflush()}} \
		 /^Installing/ {print "  unpacking"; fflush()} /^ERROR/ {print; fflush()}'
	@$(PIP) -qq --no-deps --no-build-isolation -e .
	@touch $@

demo: $(INSTALLED) ## the whole path on real data: teacher, signals, students, ladder, serving, latency
	@$(DEMO) $(if $(FORCE),--force) $(ARGS)

sweep: $(INSTALLED) ## search the settings of a student of the demo (SPACE=…, ARGS='--trials 8 --resume')
	@$(PY) -m ray_jobs.tune --config $(CONFIG) --space $(SPACE) $(WHERE) \
		$(if $(FORCE),--force) $(ARGS)

serve: $(INSTALLED) ## serve the demo's teacher and student until Ctrl-C
	@$(DEMO) --serve $(ARGS)

ui: $(INSTALLED) ## open the recorded runs in MLflow's page until Ctrl-C
	@$(PY) -m ray_jobs.ui $(WHERE) $(ARGS)

# In the order of their names the slow files come first, and neither process ends up waiting for the other's last one.
test: $(INSTALLED) ## all tests but the long proofs, under 10 minutes on 2 cores
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not full"

# The long proofs come one at a time: where two Rays run, Ray Train's cleaner finds both and frees no places.
test-full: test ## all tests
	@$(PY) -m pytest -n 1 -m full

check: $(INSTALLED) ## format, lint, types, and that CHANGELOG.md knows the version; what continuous integration runs first
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@version=$$(sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml); \
		case "$$(sed -n 's/^## \[\(.*\)\].*/\1/p' CHANGELOG.md | head -n 2 | tr '\n' ' ')" in \
			"$$version "*|"Unreleased $$version "*) ;; \
			*) echo "error: pyproject.toml says version $$version, CHANGELOG.md another (one Unreleased may stand above)"; exit 1;; \
		esac

bench: $(INSTALLED) ## all benchmarks, into benchmarks/results/
	@$(PY) benchmarks

lock: ## write requirements.lock anew from pyproject.toml
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip install -qq --no-compile "$$(grep '^torch==' requirements.lock)"
	@build/lock/bin/python -m pip install -qq --no-compile ".[$(EXTRAS)]"
	@{ echo '# Exact versions of everything, for Linux and Python 3.11; made by `make lock` from pyproject.toml.'; \
	   build/lock/bin/python -m pip freeze --all | grep -v -e '^pip==' -e '^recsys-distill' | sed 's/^\(torch==[0-9.]*\)+.*/\1/'; \
	 } > build/requirements.lock
	@mv build/requirements.lock requirements.lock && rm -rf build

clean: ## remove .venv and caches; what was made stays in runs/
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@if [ -d runs ]; then echo "runs/ is kept; rm -r runs removes it"; fi
