# What people type. `make demo` and `make test` do all the set-up on a fresh Debian machine with cargo.
#
# RocksDB is compiled from source once, which takes about 12 minutes on two cores. It happens in one profile and with
# one set of features for all commands here, so nothing compiles it again.

CARGO ?= cargo
export CARGO_TARGET_DIR ?= $(CURDIR)/target
BIN = $(CARGO_TARGET_DIR)/debug/quorate
RELEASE = $(CARGO_TARGET_DIR)/optimised/release/quorate

.DEFAULT_GOAL := help
.PHONY: help setup build demo example test flaws foreign differential fuzz simulate soak verify fix restart release bench clean

help:
	@echo "make demo    build, then show a three-member cluster at work on this machine"
	@echo "make example NAME=leader_election  run a program of examples/ against the cluster of QUORATE_ENDPOINTS"
	@echo "make test    build, then run every test"
	@echo "make differential SEEDS=1000  compare more random requests with Debian's etcd"
	@echo "make fuzz SECONDS=60  throw damaged bytes at every decoder, so long at each"
	@echo "make simulate SEEDS=1000  run more clusters under simulated faults; SEED=7 replays one"
	@echo "make flaws SEEDS=20  put one bug after the other in, and count the seeds until each is found"
	@echo "make soak HOURS=8  real members under load and faults, checked minute by minute (MINUTES=5 for less)"
	@echo "make verify  format, lints, documentation, tidiness: changes nothing"
	@echo "make fix     format and mend what can be mended by itself"
	@echo "make restart measure restarts of one and of three members with a million keys"
	@echo "make build   only build; the binary is $(BIN)"
	@echo "make release build the optimised binary, $(RELEASE)"
	@echo "make bench   compare with etcd on this machine (QUICK=1, WORKS=put-64,get-64, PEER=/path/to/etcd, OUT=DIR)"

setup:
	@scripts/setup

build: setup
	@scripts/announce-build
	$(CARGO) build --locked --workspace --bins

demo: build
	$(BIN) demo

# Of the whole workspace, as all else: for a single package everything would be compiled with other features again.
NAME ?= tour
example: build
	$(CARGO) build --locked --workspace --examples
	$(CARGO_TARGET_DIR)/debug/examples/$(NAME)

test: setup foreign
	@scripts/announce-build
	$(CARGO) test --locked --workspace

restart: build
	$(CARGO) build --locked --workspace --examples
	$(CARGO_TARGET_DIR)/debug/examples/restart 1
	$(CARGO_TARGET_DIR)/debug/examples/restart 3

# etcd and the clients that the conformance tests run, beside what is built.
foreign:
	@scripts/foreign-clients $(CARGO_TARGET_DIR)/foreign-clients

SEEDS ?= 1000
differential: build foreign
	QUORATE_SEEDS=$(SEEDS) $(CARGO) test --locked --workspace --test differential -- --nocapture as_etcd_does

SECONDS ?= 60
fuzz: setup
	@scripts/announce-build
	QUORATE_FUZZ_SECONDS=$(SECONDS) $(CARGO) test --locked --workspace --lib --bins -- --nocapture --test-threads 1 fuzz::

# Whole clusters, each in one thread: docs/simulation.md. For many of them it pays to have all of it optimised.
simulate: setup
	@scripts/announce-build
	$(if $(SEED),QUORATE_SEED=$(SEED),QUORATE_SEEDS=$(SEEDS)) $(if $(SCENARIO),QUORATE_SCENARIO=$(SCENARIO)) \
	$(if $(SEED),$(CARGO) test --workspace,scripts/optimised test --profile simulate --package quorate-tests) \
	--locked --test simulation -- --nocapture $(if $(SCENARIO),what_is_written_down,whatever_goes_wrong)

flaws: setup
	@scripts/announce-build
	QUORATE_BUGS=$(SEEDS) $(CARGO) test --locked --workspace --test simulation -- --nocapture a_bug_that

# Hours, not for CI: docs/reliability.md.
HOURS ?= 1
MINUTES ?= $(shell expr $(HOURS) \* 60)
soak: build
	$(CARGO) build --locked --workspace --examples
	$(CARGO_TARGET_DIR)/debug/examples/soak $(MINUTES)

verify: setup
	@scripts/announce-build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	$(CARGO) test --locked --workspace --test tidy

fix:
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

release: setup
	scripts/optimised build --locked --release --package quorate-cli --package quorate-bench

bench: export QUICK := $(QUICK)
bench: export WORKS := $(WORKS)
bench: export PEER := $(PEER)
bench: export OUT := $(OUT)
bench: export DATA := $(DATA)
bench: release
	scripts/bench

clean:
	$(CARGO) clean
