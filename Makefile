# `make demo` shows what easyroutine does; `make test` is everything that CI runs. Both install what they need.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.PHONY: demo test setup lint docs unit count real web python book fuzz readme test-torch bench dist torture

# The compiler that the checks are made with; any newer one builds the program.
RUST := 1.95.0
ifneq ($(shell rustc --version 2>/dev/null | cut -d' ' -f2),$(RUST))
test setup lint docs unit count real web python book fuzz readme test-torch torture: export RUSTUP_TOOLCHAIN := $(RUST)
endif
export PATH := $(CURDIR)/.cache/tools/bin:$(PATH)
export MAKE

PROMPT := The capital of France is
EASYROUTINE := cargo run --profile quick --locked --quiet --package easyroutine-cli --
STAGES := setup lint docs unit count real web python book fuzz readme

# Every layer's guess at the next token, on a pretrained model (98 MB, kept in the cache folder).
demo:
	@scripts/setup.sh demo
	cargo build --profile quick --locked --package easyroutine-cli
	@python3 scripts/fetch_model.py smollm2 >/dev/null
	@$(EASYROUTINE) lens "$(PROMPT)" --model smollm2 --format table
	@$(EASYROUTINE) lens "$(PROMPT)" --model smollm2 --output lens.html
	@echo "The same as a page: open lens.html in a browser."

test:
	@scripts/test.sh $(STAGES)

# System packages and pinned tools that the checks need.
setup:
	@scripts/setup.sh test

lint:
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings -D clippy::undocumented_unsafe_blocks
	cargo clippy --package easyroutine-cli --no-default-features --locked -- -D warnings
	cargo deny --all-features check bans licenses sources

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --exclude easyroutine-python --lib --all-features --no-deps --locked

unit:
	cargo test --workspace --all-features --locked --no-fail-fast

# Instructions of a small forward pass: a slip in speed is seen without a clock.
count:
	cargo build --release --package easyroutine --example forward --locked
	scripts/count.sh check

# Tests that need a pretrained model are marked as ignored, and run here.
real:
	EASYROUTINE_SMOLLM2="$$(python3 scripts/fetch_model.py smollm2)" \
	EASYROUTINE_GEMMA3="$$(python3 scripts/fetch_model.py gemma3)" \
	cargo test --workspace --all-features --locked --tests -- --ignored

# Pages in a browser.
web:
	tests/web/run.sh

# The Python package, without torch; `make test-torch` has torch and transformers, and runs everything.
python:
	scripts/python.sh test

test-torch:
	scripts/python.sh torch

# The book with the pages of both APIs, in target/book; `make docs` and `make python` come first.
book:
	scripts/book.sh

# Five seconds a target; `make torture` takes ten minutes each, kills 35,000 processes that write to a store, and gives
# every key of every config every strange value.
fuzz:
	scripts/fuzz.sh 5

# What a release publishes, into dist/: wheel, source distribution, static program, crates, licences, checksums.
dist:
	scripts/dist.sh

torture:
	scripts/setup.sh test
	EASYROUTINE_TEST_KILLS=5000 cargo test --release --package easyroutine-store --test store --locked kills::
	EASYROUTINE_TEST_VALUES=all cargo test --release --package easyroutine --test core --locked bad_input::
	scripts/fuzz.sh 600

# The README's commands are those of this file and of the program.
readme:
	cargo build --workspace --all-features --locked --bin easyroutine
	python3 scripts/fetch_model.py smollm2
	scripts/readme.sh "$${CARGO_TARGET_DIR:-target}/debug"

# Kernels against the processor's peak, whole runs against transformers, the store against torch: the tables of
# docs/performance.md and docs/store.md. The store's figures need 8 GiB on the disk of STORE_BENCH.
STORE_BENCH ?= .cache
bench:
	cargo bench --locked --package easyroutine-kernels
	bench/run.sh
	.cache/bench/venv/bin/python bench/gguf.py --program $${CARGO_TARGET_DIR:-target}/release/examples/forward \
		"$$(python3 scripts/fetch_model.py smollm2)" "$$(python3 scripts/fetch_model.py gemma3)"
	.cache/bench/venv/bin/python bench/mixers.py --models .cache/bench --program $${CARGO_TARGET_DIR:-target}/release/examples/forward
	.cache/bench/venv/bin/python bench/sweep.py --models .cache/bench --program $${CARGO_TARGET_DIR:-target}/release/examples/sweep
	.cache/bench/venv/bin/python bench/attribution.py --models .cache/bench --program $${CARGO_TARGET_DIR:-target}/release/examples/attribution
	.cache/bench/venv/bin/pip install --quiet --disable-pip-version-check ./python
	.cache/bench/venv/bin/python bench/python_layer.py --models .cache/bench --program $${CARGO_TARGET_DIR:-target}/release/examples/forward
	(cd tests/web && npm ci --silent --no-audit --no-fund && node bench.mjs "$${CARGO_TARGET_DIR:-$(CURDIR)/target}/release/easyroutine")
	cargo build --release --locked --package easyroutine-store --example figures
	.cache/bench/venv/bin/python bench/store.py "$(STORE_BENCH)"
