# `make demo` and `make test` do all their own set-up on a fresh machine: python3 (3.11 or newer) and make are enough.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
PYTEST := $(BIN)/pytest

FUZZ_SECONDS ?= 60

# Which of Debian's suites: trixie, sid or experimental have a newer HAProxy each.
SUITE ?= trixie
NEWER_HAPROXY ?= .build/newer-haproxy
# All that runs HAProxy itself; what it is not in runs in `make test` alone.
HAPROXY_TESTS := $(addprefix tests/integration/test_,\
    haproxy_apply.py haproxy_launch.py render_haproxy.py services.py revisions.py apply_killed.py hostile_members.py \
    agent.py cli.py) tests/acceptance

.PHONY: help demo test test-newer-haproxy check format soak fuzz bench clean

help:
	@echo 'make demo    a real HAProxy under load while web nodes join, drain, crash and freeze'
	@echo 'make test    everything: check, integration, acceptance (as root it installs the system programs it needs)'
	@echo 'make test-newer-haproxy  what runs HAProxy, on a newer one that Debian has: SUITE (trixie), sid or experimental'
	@echo 'make check   format, lint, types, unit and property tests, about a minute'
	@echo 'make fuzz    every decoder under bytes that coverage guides, FUZZ_SECONDS (60) each'
	@echo 'make soak    long property and simulation runs'
	@echo 'make bench   what an agent costs, and how fast the example app is'

$(VENV)/.ready: pyproject.toml constraints.txt scripts/venv
	@scripts/venv $(PYTHON) $(VENV)
	@touch $@

demo: $(VENV)/.ready
	@$(BIN)/rumor demo $(DEMO_ARGS)

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy src tests bench examples & types=$$!; \
	    $(PYTEST) -n 2 tests/unit tests/property tests/fuzz tests/simulation -m 'not soak' && wait $$types

# Most of them wait for answers that are late by design, so they run side by side, and Debian for the images is made
# meanwhile. The demo holds limits of a second and has the machine to itself. Those that count requests run beside the
# containers, of which those that wait for one another begin, and those under load come last.
test: check
	@scripts/system-programs
	scripts/debian-image .cache/debian.tar & debian=$$!; \
	    $(PYTEST) -n 4 --dist worksteal tests/integration tests/acceptance -m 'not soak and not alone and not counts'; \
	    status=$$?; wait $$debian; exit $$status
	@mkdir -p .cache
	$(PYTEST) tests/acceptance -m alone
	$(PYTEST) tests/acceptance -m counts >.cache/acceptance.log 2>&1 & acceptance=$$!; \
	    RUMOR_DEBIAN=.cache/debian.tar $(PYTEST) tests/docker; \
	    status=$$?; wait $$acceptance || status=$$?; cat .cache/acceptance.log; exit $$status

test-newer-haproxy: $(VENV)/.ready
	@haproxy=$$(scripts/newer-haproxy $(NEWER_HAPROXY) $(SUITE)) && \
	    RUMOR_HAPROXY=$$haproxy $(PYTEST) $(HAPROXY_TESTS) -m 'not soak'

format: $(VENV)/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

soak: $(VENV)/.ready
	$(PYTEST) tests -m soak --timeout 3600

fuzz: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt atheris
	for target in $$($(BIN)/python tests/fuzz/with_atheris.py); do \
	    $(BIN)/python tests/fuzz/with_atheris.py $$target -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

bench: $(VENV)/.ready
	$(BIN)/python bench/agent_cost.py
	$(BIN)/python bench/app_rate.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
