# Each of these commands does its own set-up: a virtual environment in .venv, and system packages that are
# missing. The second time there is nothing left to set up.

.PHONY: help demo test bench profile develop release-check clean

help:  ## what can be made
	@awk -F '  ## ' '/^[a-z-]+:.*  ## / { sub(/:.*/, "", $$1); printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo:  ## a tour of a cluster in network namespaces, with real clients; every claim is checked
	@scripts/setup.sh demo
	@.venv/bin/python -m userspace_proxy.demo

test:  ## the whole suite: style, types, layers, tests (through tox)
	@scripts/setup.sh test
	@.venv/bin/python -m tox run

bench:  ## the proxy beside nginx, HAProxy and the kernel, on the same work (BENCH='--quick' for a first look)
	@scripts/setup.sh bench
	@.venv/bin/python -m benchmarks $(BENCH)

profile:  ## flame graphs of a worker, and its system calls per connection, for each kind of work
	@scripts/setup.sh bench
	@.venv/bin/python -m benchmarks profile $(PROFILE)

develop:  ## an environment to work on this in: tools, system packages, git hooks
	@scripts/setup.sh develop
	@.venv/bin/pre-commit install

release-check:  ## whether wheel and sdist build, install and run, and the changelog knows the version
	@scripts/setup.sh develop
	@.venv/bin/python scripts/release_check.py

clean:  ## remove what these commands have made in this folder
	rm -rf .venv .tox .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
