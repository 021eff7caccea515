# What a person does with this repository. `make help` lists it.
SHELL := /bin/bash
.DELETE_ON_ERROR:
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/aether
# One for each checkout: cargo tells sources apart by their age, so two checkouts would run each other's programs.
export CARGO_TARGET_DIR ?= $(CACHE)/target-$(firstword $(shell printf %s '$(CURDIR)' | cksum))
export GOTOOLCHAIN := local
BIN := $(CARGO_TARGET_DIR)/debug

.PHONY: help
help: ## List these targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: prerequisites
prerequisites:
	@for tool in cargo:Rust go:Go python3:'Python 3' unshare:util-linux; do \
	  command -v $${tool%%:*} >/dev/null || { echo "$${tool#*:} is needed ($${tool%%:*} was not found); install it and run again." >&2; exit 1; }; \
	done

.PHONY: build
build: prerequisites ## Build the operator, the CLI and the test bed
	cargo build --workspace --bins

.PHONY: target-dir
target-dir: ## Print where this checkout's build output is, for plain cargo
	@echo $(CARGO_TARGET_DIR)

.PHONY: clean
clean: ## Remove this checkout's build output
	rm -rf $(CARGO_TARGET_DIR)

.PHONY: controlplane
controlplane: build ## Build or fetch the real control plane, gateway and Prometheus (once; minutes the first time)
	$(BIN)/testbed build

.PHONY: demo
demo: build ## Bring out a new version under load on a real cluster and watch
	$(BIN)/testbed demo

.PHONY: demo-pool
demo-pool: build ## Recycle a pool of proxies in a fake cloud, without ever too few, and watch
	$(BIN)/testbed demo-pool

.PHONY: bench
bench: build ## Measure rollback latency, and what 1,000 finished updates and 1,000 pods to read cost, on a real cluster
	cargo build --release -p aether-operator --bins
	$(BIN)/testbed bench

# Always the whole workspace: another selection is other features of the libraries, and a build of its own.
TEST := cargo test --workspace
PURE := --lib --bins --test decisions --test generated --test measurer --test model --test pool_model --test release

# What every bed's API server was asked for by operators; the rights must be just that.
export AETHER_REQUESTS ?= $(CARGO_TARGET_DIR)/requests

.PHONY: test
test: prerequisites ## Run every test: pure, model, and on a real cluster
	rm -rf $(AETHER_REQUESTS)
	$(TEST) --no-run
	$(TEST) $(PURE) --test bed --test clouds --test bootstrap
	$(TEST) --doc
	$(MAKE) --no-print-directory -j3 --output-sync=line with-faults with-tools at-gates with-people installed under-load
	$(BIN)/testbed render --check
	$(BIN)/testbed rights $(AETHER_REQUESTS)

# Each has clusters of its own, in network namespaces of their own. Mostly they wait, so three are no more than two cores can do. The
# longest begin first.
.PHONY: under-load with-faults at-gates with-people with-tools installed
under-load:
	$(TEST) --test rolling
with-faults:
	$(TEST) --test crash --test scaling
at-gates:
	$(TEST) --test gates --test health
with-people:
	$(TEST) --test orders --test people
	$(TEST) --test pool a_pool_is_scaled_evicted_from_and_deleted
with-tools:
	$(TEST) --test gitops --test docs
installed:
	$(TEST) --test install

.PHONY: test-pools
test-pools: prerequisites ## Test pools on a real cluster, in a fake cloud with real proxies, and their matrix of faults (AETHER_LONG=1: all of it)
	$(TEST) --test pool --test pool_faults

.PHONY: verdict-table
verdict-table: ## Print what the judge does to thousands of made-up updates, next to the checks it replaces
	cargo run --release --example verdict-table

.PHONY: test-long
test-long: export AETHER_LONG := 1
test-long: test test-pools ## Every test, the slowest too, and 10,000 random schedules in the model
	AETHER_MODEL_RUNS=10000 cargo test --release --no-default-features -p aether-operator --test model random_worlds

.PHONY: lint
lint: prerequisites ## Format check and clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

.PHONY: generate
generate: build ## Write the generated files anew (crds/, charts/*/files/, deploy/, openapi.json, some of docs/)
	UPDATE=1 $(TEST) --test generated
	$(BIN)/testbed render

# The helm that `make controlplane` built, and what writes the bill of materials.
HELM ?= $(lastword $(sort $(wildcard $(CACHE)/helm-*/helm)))
CYCLONEDX ?= $(CACHE)/cargo-cyclonedx-0.5.9/bin/cargo-cyclonedx

$(CACHE)/cargo-cyclonedx-%/bin/cargo-cyclonedx:
	env -u CARGO_TARGET_DIR cargo install cargo-cyclonedx --version $* --locked --root $(CACHE)/cargo-cyclonedx-$*

.PHONY: release
release: prerequisites $(CYCLONEDX) ## Make what a release is made of, and check it: programs, chart, SBOM, checksums (dist/)
	HELM='$(HELM)' CYCLONEDX='$(CYCLONEDX)' release/build
	release/check

.PHONY: operator
operator: build ## Run the operator against the cluster of your KUBECONFIG
	$(BIN)/aether-operator run --admin-address 127.0.0.1:8081

.PHONY: up
up: controlplane ## Leave a cluster running for your own kubectl
	$(BIN)/testbed up

.PHONY: down
down: ## Stop that cluster
	$(BIN)/testbed down
