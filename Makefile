# Every target does its own set-up and is safe to run again. `make` alone lists them.
#   make demo ARGS=--once     arguments are passed through
#   make PYTHON=python3.12 …  another interpreter (3.11 or newer) than the first one found

# Tried, not only found: pyenv's shims exist for versions that are not active. The embedded Redis supports up to 3.12.
PYTHON ?= $(shell for name in .venv/bin/python python3.12 python3.11 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$name && exit; \
	done; echo python3)
BIN := .venv/bin
SETUP := $(PYTHON) -I platform/launcher/venv.py
ARGS ?=
SEEDS ?=

.DEFAULT_GOAL := help
.PHONY: help demo up test lint bench faults locks messages

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile

demo:  ## a real model behind a URL, from nothing (ARGS=--once: call it, clean up, stop)
	@$(SETUP) runtime
	@$(BIN)/python manage.py demo $(ARGS)

up:  ## the platform without the demo's data
	@$(SETUP) runtime
	@$(BIN)/python manage.py up $(ARGS)

test:  ## every test that this machine can run (ARGS="tests/unit -k name")
	@$(SETUP) dev
	@$(BIN)/python -m tests.run $(ARGS)

lint:  ## format, lint, types, import rules, guards
	@$(SETUP) dev
	@$(BIN)/python -m tests.lint $(ARGS)

bench:  ## benchmarks beside their goals (ARGS=gateway for one group)
	@$(SETUP) dev
	@$(BIN)/python -m tests.bench $(ARGS)

faults:  ## SEEDS=n scenarios of faults on the real stack (ARGS="--seed 7" for one)
	@$(SETUP) dev
	@$(BIN)/python -m tests.faults $(SEEDS) $(ARGS)

locks:  ## pin and hash the dependencies named in pyproject.toml
	@$(SETUP) dev
	@$(BIN)/python -I platform/launcher/locks.py

messages:  ## collect the strings that users see into platform/locale
	@$(SETUP) dev
	@$(BIN)/python manage.py makemessages --locale vi --no-obsolete --no-location --ignore var --ignore node_modules --ignore .venv
	@$(BIN)/python manage.py compilemessages --ignore .venv
