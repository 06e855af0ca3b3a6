# Copyright (c) 2026, crosshost.doctor contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# make setup     everything needed to run and to test, once; again it costs a moment
# make demo      break a real Swarm on this machine and diagnose it (FAULT=name for another fault)
# make test      every gate CI has: lint, sanity, unit, molecule, system
# make help      all targets

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
FAULT ?= data-udp-blocked-host-fw
VENV := .venv
BIN := $(VENV)/bin
CACHE := .cache
# The collection as a package, where no tool takes it for an installed library.
TREE := $(VENV)/tree
SCENARIOS := $(patsubst molecule/%/molecule.yml,%,$(wildcard molecule/*/molecule.yml))
STEP := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/gates/step.py
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup system-packages lint sanity unit molecule molecule-main system test demo accuracy repairs docs bench freeze clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
	@echo "make lint|sanity|unit|molecule|system   one gate"
	@echo "make molecule SCENARIO=NAME   one scenario; without it all of molecule/, two at a time"
	@echo "make accuracy  every fault and trap of the lab, diagnosed (ONLY=PATTERN for some)"
	@echo "make repairs   every fault that a role repairs, repaired and taken back (ONLY=PATTERN for some)"
	@echo "make docs      write docs/causes.md, docs/remedies.md and docs/accuracy.md anew"
	@echo "make bench     the benchmarks"
	@echo "make freeze    resolve requirements-dev.in anew into requirements-dev.txt"
	@echo "make clean     remove what was built here"

# Set-up ----------------------------------------------------------------------------------------------------------

# A virtual environment works only where it was made: one that was moved or copied is made anew.
ifneq ($(shell cat $(VENV)/.stamp-packages 2>/dev/null),$(CURDIR))
$(shell rm -f $(VENV)/.stamp-packages)
endif

setup: system-packages $(VENV)/.stamp-bundle

system-packages:
	@$(PYTHON) tests/lab/packages.py --install

$(VENV)/.stamp-packages: requirements-dev.txt | system-packages
	@$(PYTHON) tests/gates/interpreter.py
	@echo "Installing requirements-dev.txt into $(VENV): about a minute"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	@echo "$(CURDIR)" > $@

$(VENV)/.stamp-collection: $(VENV)/.stamp-packages
	@for parent in "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" $(TREE); do \
		mkdir -p "$$parent/ansible_collections/crosshost"; \
		ln -sfn "$(CURDIR)" "$$parent/ansible_collections/crosshost/doctor"; \
	done
	@touch $@

$(VENV)/.stamp-bundle: $(VENV)/.stamp-collection meta/host-libraries.txt plugins/plugin_utils/bundle.py
	@$(BIN)/python plugins/plugin_utils/bundle.py > /dev/null
	@touch $@

# Gates -----------------------------------------------------------------------------------------------------------

LINTERS := lint-ruff lint-format lint-mypy lint-yaml lint-ansible lint-docs lint-pages lint-changelog lint-galaxy
.PHONY: $(LINTERS)
lint: $(LINTERS)
$(LINTERS): setup

lint-ruff:
	@$(STEP) "ruff check" ruff check .
lint-format:
	@$(STEP) "ruff format" ruff format --check .
lint-mypy:
	@$(STEP) mypy env -C $(TREE) mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache \
		-p ansible_collections.crosshost.doctor.plugins
lint-yaml:
	@$(STEP) yamllint yamllint --strict .
lint-ansible:
	@$(STEP) ansible-lint ansible-lint --offline --nocolor
lint-docs:
	@$(STEP) antsibull-docs python -m tests.gates.docs
lint-pages:
	@$(STEP) "generated pages" python -m tests.gates.pages
lint-changelog:
	@$(STEP) antsibull-changelog antsibull-changelog lint

lint-galaxy:
	@$(STEP) galaxy-importer python -m tests.gates.importer

sanity: setup
	@$(STEP) "ansible-test sanity" $(BIN)/python -m tests.gates.sanity

unit: setup
	@$(BIN)/python -m pytest tests/unit --quiet

molecule: setup
	@printf '%s\n' $(or $(SCENARIO),$(SCENARIOS)) | NO_COLOR=1 xargs --max-procs=2 --replace={} \
		env $(STEP) "molecule {}" molecule test --scenario-name {}

# The scenarios of the gate: each kind of owner of a setting once. The others take half an hour: `make molecule`.
MAIN ?= prepare firewall_ports firewall_ports_firewalld ip_forwarding mss_clamp overlay_entries engine_rules
molecule-main:
	@$(MAKE) --no-print-directory molecule SCENARIO="$(MAIN)"

system: setup
	@$(BIN)/python -m pytest tests/system --quiet --numprocesses 2 --dist loadfile

test: lint sanity unit molecule-main system

# Other -----------------------------------------------------------------------------------------------------------

demo: setup
	@$(BIN)/python -m tests.demo --fault $(FAULT)

# Every fault and every trap, one at a time: half an hour. ONLY='mtu*' for some of them, without writing the page.
accuracy: setup
	@$(BIN)/python -m tests.accuracy $(if $(ONLY),--only $(foreach pattern,$(ONLY),'$(pattern)'))

# Every fault of the lab that a role repairs, one at a time: shown, applied, verified, taken back. ONLY='mtu*' for some.
repairs: setup
	@$(BIN)/python -m tests.repairs $(if $(ONLY),--only $(foreach pattern,$(ONLY),'$(pattern)')); \
		code=$$?; $(BIN)/python -m tests.gates.pages --write; exit $$code

# The pages that are made from the code: docs/causes.md, docs/remedies.md and docs/accuracy.md.
docs: setup
	@$(BIN)/python -m tests.gates.pages --write

bench: setup
	@for part in filter facts diagnose performance; do $(BIN)/python -m tests.benchmark.$$part; done

freeze:
	@rm -rf $(CACHE)/freeze && $(PYTHON) -m venv $(CACHE)/freeze
	@$(CACHE)/freeze/bin/pip install --quiet --requirement requirements-dev.in
	@{ echo "# The frozen closure of requirements-dev.in. Made by \`make freeze\`: change requirements-dev.in, not this file."; \
		$(CACHE)/freeze/bin/pip freeze; } > requirements-dev.txt
	@rm -rf $(CACHE)/freeze

clean:
	@rm -rf $(VENV) $(CACHE) .ansible .mypy_cache .ruff_cache .pytest_cache .hypothesis crosshost-doctor-*.tar.gz
	@find . -name __pycache__ -prune -exec rm -rf {} +
