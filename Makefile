# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A stamp per set of packages: the demo needs fewer, so it starts sooner.
DEMO_READY := $(VENV)/.ready-demo
TEST_READY := $(VENV)/.ready-test
# The tools that `make bench` compares with have an environment of their own.
PEERS := benchmarks/.venv-peers
PEERS_READY := $(PEERS)/.ready

# FACECAP_TEST_DATA and FACECAP_TEST_MODELS name folders with the optional test images and models.
.PHONY: demo test test-all lint bench clean

demo: $(DEMO_READY)
	$(BIN)/facecap models fetch mtcnn
	$(BIN)/facecap demo --output demo-out

test: $(TEST_READY) lint
	$(BIN)/facecap models fetch mtcnn
	$(BIN)/python -m pytest -n 2

test-all: $(TEST_READY) lint
	$(BIN)/facecap models fetch mtcnn
	$(BIN)/python -m pytest -n 2 -m "long or not long"

lint: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# BENCH="--only line --rows 1200" runs a part of it.
bench: $(DEMO_READY) $(PEERS_READY)
	$(BIN)/python -m benchmarks.bench $(BENCH)

clean:
	rm -rf $(VENV) $(PEERS) demo-out

# uv when it is there (seconds), else venv and pip (a minute or two).
$(VENV)/.ready-%: pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$*]'; \
	else \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'; \
	fi
	@touch $@

$(PEERS_READY): benchmarks/peers.txt
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(PEERS) && \
		uv pip install --quiet --python $(PEERS)/bin/python -r $<; \
	else \
		$(PYTHON) -m venv $(PEERS) && \
		$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<; \
	fi
	@touch $@
