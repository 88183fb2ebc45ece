.DEFAULT_GOAL := help
.PHONY: help setup lint test slow coverage curves faults demo

help: ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: ## a virtual environment in .venv with everything installed
	bash scripts/setup.sh

lint: ## check style, put imports and layout right
	bash -c 'source scripts/setup.sh && "$$PYTHON" -m ruff check --fix . && "$$PYTHON" -m ruff format .'

coverage: ## which lines and branches of crashchat/ the suite passes, its processes' too
	bash scripts/test.sh --cov --cov-report=term

test: ## style and the whole test suite, as continuous integration runs it
	bash scripts/test.sh

slow: ## the tests that take minutes and say little more
	bash scripts/test.sh -m slow

curves: ## record anew the losses that tests/training/test_curves.py follows, after a change of what is learnt
	bash -c 'source scripts/setup.sh && exec "$$PYTHON" -m tests.helpers.curves record'

faults: ## breaks clips, files, runs, disks and servers on purpose; a quarter of an hour (docs/reliability.md)
	bash -c 'source scripts/setup.sh && exec "$$PYTHON" -m tests.faults $(FAULTS)'

demo: ## from synthetic clips to a scored report
	bash scripts/demo.sh
