# Set-up, tests and demos from a fresh clone: `make test`, `make demo`. `make help` lists the rest.
#
#   PYTHON=python3.12     interpreter behind .venv (3.11 or 3.12); default: the first one found
#   ARGS='--flag=value'   passed on to a demo, or to pytest by `make pytest`
#   LAYER=-full           takes requirements/py3xx-full.txt, which adds Beam, hub models, Whisper, the page and the TPU compiler
#   PIP_ARGS, UV_ARGS     further options of pip (install) and of uv (lock)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
RUN := $(VENV)/bin/python -m
CODE := gpst_jax data_pipeline experiments
TORCH := torch==2.13.0

# The environment that is there comes first, so that a later plain `make` keeps its Python.
VERSION := import sys; print("py%d%d" % sys.version_info[:2])
ifndef PYTHON
PYTHON := $(shell for p in $(VENV)/bin/python python3.11 python3.12 python3; do \
	if $$p -c '$(VERSION)' 2>/dev/null | grep -qx 'py31[12]'; then echo $$p; break; fi; done)
endif
TAG := $(if $(PYTHON),$(shell "$(PYTHON)" -c '$(VERSION)' 2>/dev/null))
LOCK := requirements/$(TAG)$(LAYER).txt
STAMP := $(VENV)/installed-$(TAG)$(LAYER)
PIP := $(RUN) pip install --disable-pip-version-check --progress-bar off --no-compile $(PIP_ARGS)
LOG := $(VENV)/install.log
LOGGED := >>$(LOG) 2>&1 || { tail -n 20 $(LOG) >&2; exit 1; }

.PHONY: help install test lint format pytest demo demo-coig lock clean

help:  ## Lists the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

install: $(STAMP)  ## Makes .venv from the lock file of its Python; nothing to do when up to date.

$(STAMP): setup.py $(wildcard $(LOCK))
	@case "$(TAG)" in \
	py311|py312) ;; \
	*) echo "error: Python 3.11 or 3.12 is needed, found $(or $(TAG),none): install one," \
	     "or name it with PYTHON=/path/to/python3.11" >&2; exit 2;; \
	esac
	@[ -f "$(LOCK)" ] || { echo "error: there is no $(LOCK): LAYER is -full or not set" >&2; exit 2; }
	@if [ -d $(VENV) ] && \
	     [ "$$($(VENV)/bin/python -c '$(VERSION)' 2>/dev/null || true)" != "$(TAG)" ]; then \
	  echo "== $(VENV) has no working $(TAG): making it anew"; rm -rf $(VENV); \
	fi
	@echo "== $(VENV) for $(TAG), from $(LOCK)"
	@[ -d $(VENV) ] || "$(PYTHON)" -m venv --without-pip $(VENV)
	@$(RUN) pip --version >/dev/null 2>&1 || $(RUN) ensurepip >/dev/null 2>&1 || { \
	  echo "error: this Python cannot install pip: add its venv package" \
	    "(on Debian, apt install python3-venv)" >&2; exit 2; }
	@echo "== $(TORCH), in the build that the package index has for this machine"
	@$(PIP) "$(TORCH)" $(LOGGED)
	@echo "== $$(grep -c '^[a-zA-Z].*==' $(LOCK)) packages at pinned versions, by hash" \
	  "(a minute or two; details in $(LOG))"
	@$(PIP) --no-deps --require-hashes -r $(LOCK) $(LOGGED)
	@echo "== compiling modules, on all cores (pip would use one)"
	@$(RUN) compileall -q -j 0 -x '/(tests?|testing)/' $(VENV)/lib >>$(LOG) 2>&1 || true
	@echo "== gpst_jax itself, editable"
	@$(PIP) --no-deps --no-build-isolation -e . $(LOGGED)
	@touch $@
	@echo "== installed"

test:  ## Installs every extra, then lint, format, type and behaviour checks: what CI runs.
	@$(MAKE) --no-print-directory LAYER=-full lint pytest

lint: install  ## Style, format and types.
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy $(CODE)

format: install  ## Rewrites the code in the project's format and applies the safe fixes.
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

pytest: install  ## The tests alone; ARGS chooses, for example ARGS='-m "not slow"'.
	$(RUN) pytest -n 2 --dist loadfile $(ARGS)

demo: install  ## Corpus, tokens, training, generation, evaluation and report, in runs/demo.
	$(RUN) experiments.demo $(ARGS)

demo-coig: install  ## The same for SpeechGPT-Gen, in runs/demo-coig.
	$(RUN) experiments.demo_coig $(ARGS)

lock:  ## Resolves the lock files anew; UV_ARGS=--upgrade moves to the newest versions.
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	"$(PYTHON)" -m venv "$$dir/uv"; \
	"$$dir/uv/bin/python" -m pip install --disable-pip-version-check --quiet uv; \
	for version in 3.11 3.12; do \
	  base=requirements/py$${version/./}; \
	  compile() { echo "== $$1"; "$$dir/uv/bin/uv" pip compile --quiet --universal \
	      --python-version $$version --fork-strategy fewest --generate-hashes --no-annotate \
	      --custom-compile-command 'make lock' --override requirements/overrides.txt \
	      --extra eval --extra demo --extra dev setup.py requirements/torch-needs.in \
	      -o "$$@"; }; \
	  compile $$base-full.txt --extra aot --extra beam --extra codecs --extra datasets --extra gcs --extra int8 \
	      --extra lhotse --extra lmdb --extra mos --extra serve --extra torch --extra trackio --extra wandb \
	      --extra whisper $(UV_ARGS); \
	  compile $$base.txt -c $$base-full.txt $(UV_ARGS); \
	done

clean:  ## Removes .venv and every cache; runs/ stays.
	rm -rf $(VENV) *.egg-info build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
