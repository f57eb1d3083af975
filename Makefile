# What one does with udpong, each in a word. Needs Rust; `make test` also uses the tools that .ci/run installs,
# and says which tests it leaves out without them.

CARGO := cargo

.DEFAULT_GOAL := help
.PHONY: help run test soak lint doc bench clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

run: ## Build, and say hello on port 5000 until Ctrl+C
	@$(CARGO) run --quiet --release --locked -- serve

test: ## Run all tests (PROPTEST_CASES=100000 makes the generated cases many)
	$(CARGO) test --locked

soak: ## Leave a server alone on a hostile network, for 10 minutes (SOAK=30s make soak)
	$(CARGO) test --locked --test program -- --ignored --nocapture soak

lint: ## Check format, clippy and rustdoc; warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --locked --no-deps --document-private-items

doc: ## Build the documentation of the code, private items included
	$(CARGO) doc --locked --no-deps --document-private-items

bench: ## Measure against a std loop, mio, Tokio and Python, for 3 minutes at the most
	$(CARGO) bench --locked --bench compare

clean: ## Remove what was built
	$(CARGO) clean
