# Everything is in tools/check.py; see the text at its top. ARGS are handed on:
#
#   make demo                        build, then the tour and a short speed table
#   make test                        every check on every CPython >= 3.11 of this machine (what CI runs)
#   make test ARGS="-k queue -x"     pytest only, with these arguments
#   make test PYTHONS=3.11           on these versions only
#   make bench ARGS="--json"         the speed table
#   make proof                       kill the core at every instruction boundary (long)
#   make soak                        random SIGKILLs (long)
#   make compat                      CPython's own tests of multiprocessing, with this package in its place
#   make release                     the sdist and the wheels, tested, into dist
#   make docs                        the documentation, into build/docs
#   make dev                         an environment with every tool; prints its python

PYTHON ?= python3
CHECK = $(PYTHON) tools/check.py

export PYTHONS

.PHONY: demo test bench proof soak compat release docs dev clean

demo test bench proof soak compat release docs dev:
	@$(CHECK) $@ $(ARGS)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests tools docs -name __pycache__ -type d -prune -exec rm -rf {} +
