# `make` alone lists what there is.
.DEFAULT_GOAL := help
.PHONY: help demo build test verify fix bench fuzz soak clean

help: ## lists this
	@echo 'make TARGET, where TARGET is'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12

demo: build ## installs what is missing, builds, and shows the main job on real nodes
	@scripts/setup demo
	@tests/demo/run

build: ## leaves target/release/esdb-gater and _build/default/lib/erl_esdb_gater
	@scripts/setup build
	cargo build --release --locked -p gater-node -p gater-nif
	rebar3 compile

test: ## sets everything up, runs every test and ends with `N passed, N failed, N skipped`
	@scripts/setup test
	@tests/run

verify: ## formatting, lints, documentation, dependencies, types, some fuzzing; changes no source
	@scripts/setup test
	@tests/run --only verify

fix: ## mends by machine what can be mended
	scripts/data-api
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

bench: build ## measures against the alternatives, in one run
	@scripts/setup bench
	@tests/bench/run $(BENCH)

fuzz: ## every parser for FUZZ_SECONDS (60) each
	@scripts/fuzz

soak: build ## ROUNDS (1000) of everything that can happen to three gateways; SEED repeats a run
	@scripts/setup test
	@scripts/soak $(or $(ROUNDS),1000) $(SEED)

clean: ## removes what was built
	rm -rf target _build native/fuzz/target erlang/priv/esdb-gater erlang/priv/gater_nif.so
