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
.PHONY: demo test test-all test-cluster test-torch lint bench fuzz clean

demo: $(DEMO_READY)
	$(BIN)/facecap models fetch mtcnn
	$(BIN)/facecap demo --output demo-out

test: $(TEST_READY) lint
	$(BIN)/facecap models fetch mtcnn
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: $(TEST_READY) lint
	$(BIN)/facecap models fetch mtcnn
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "long or not long"

# Spark, Flink, Prism and servers of S3's and Google's protocols, all on loopback. Brings what it
# needs (pyspark, job servers by Maven, Prism and a storage server by Go) and stops all it starts.
test-cluster: $(VENV)/.ready-cluster
	tests/cluster/fetch_tools.sh
	$(BIN)/facecap models fetch mtcnn
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest tests/cluster tests/deploy \
		tests/pipeline/test_dataflow_job.py tests/pipeline/test_dataflow.py -m "not long"

# What needs torch: training, and rewriting by a model in this process. In an environment of its own:
# where torch is installed every worker imports it.
TORCH := .venv-torch
test-torch:
	$(MAKE) VENV=$(TORCH) $(TORCH)/.ready-torch
	$(TORCH)/bin/python -m pytest tests/training tests/transforms/rewrite

# Coverage-guided fuzzing of the decoding (or of headers), from the kept corpus on:
# `make fuzz FUZZ_SECONDS=3600 FUZZ_TARGET=headers`. A failing input stays in build/fuzz.
FUZZ_TARGET ?= decode
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 0
fuzz: $(TEST_READY)
	mkdir -p build/fuzz/$(FUZZ_TARGET)
	$(BIN)/python -m tests.fuzz.fuzz $(FUZZ_TARGET) -max_total_time=$(FUZZ_SECONDS) \
		-seed=$(FUZZ_SEED) -timeout=60 -rss_limit_mb=1500 -max_len=16000 -print_final_stats=1 \
		-dict=tests/fuzz/$(FUZZ_TARGET).dict -artifact_prefix=build/fuzz/ \
		build/fuzz/$(FUZZ_TARGET) tests/fuzz/corpus/$(FUZZ_TARGET)

lint: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# BENCH="--only line --rows 1200" runs a part of it.
bench: $(DEMO_READY) $(PEERS_READY)
	$(BIN)/python -m benchmarks.bench $(BENCH)

clean:
	rm -rf $(VENV) $(PEERS) $(TORCH) demo-out

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
