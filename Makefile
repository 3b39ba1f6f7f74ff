# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# FACECAP_TEST_DATA and FACECAP_TEST_MODELS name folders with the optional test images and models.
.PHONY: demo test test-all lint clean

demo: $(READY)
	$(BIN)/facecap models fetch mtcnn
	$(BIN)/facecap demo --output demo-out

test: $(READY) lint
	$(BIN)/facecap models fetch mtcnn
	$(BIN)/python -m pytest -n 2

test-all: $(READY) lint
	$(BIN)/facecap models fetch mtcnn
	$(BIN)/python -m pytest -n 2 -m "long or not long"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo-out

# uv when it is there (seconds), else venv and pip (a minute or two).
$(READY): pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[test]'; \
	else \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'; \
	fi
	@touch $(READY)
