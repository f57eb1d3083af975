# Builds, runs, checks and installs udpong; `make` lists the targets. Needs Rust. `make test` also uses the tools that
# .ci/run installs.

CARGO := cargo

BUILT := $(or $(CARGO_TARGET_DIR),target)/release/udpong

# `make install` copies BINARY below PREFIX. A package is made by installing below DESTDIR.
BINARY := $(BUILT)
PREFIX := /usr/local
DESTDIR :=
COMMANDS := serve relay send ping bench report completions man

root = $(DESTDIR)$(PREFIX)
bash = $(root)/share/bash-completion/completions
zsh = $(root)/share/zsh/site-functions
fish = $(root)/share/fish/vendor_completions.d
man = $(root)/share/man/man1

.DEFAULT_GOAL := help
.PHONY: help build run test lint check-portable asan soak bench doc install uninstall clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

build: $(BUILT) ## Build the program, target/release/udpong

# Cargo runs only if a source file changed, so that `sudo make install` after `make build` needs no Rust.
$(BUILT): Cargo.toml Cargo.lock $(shell find src -type f)
	$(CARGO) build --release --locked

run: ## Build the program and serve hello on port 5000, until Ctrl+C
	$(CARGO) run --release --locked -- serve

test: ## Run all tests and report those left out (PROPTEST_CASES=256)
	$(CARGO) test --locked --doc
	$(CARGO) test --locked --no-fail-fast --tests

lint: ## Check format, clippy and rustdoc; warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	$(CARGO) clippy --locked --no-default-features --lib -- --deny warnings
	$(CARGO) clippy --locked --no-default-features --features client --lib -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --locked --no-deps --document-private-items

check-portable: ## Check the code for macOS, FreeBSD and Windows (on Debian)
	.ci/check-portable

asan: ## Run unit tests and a load with AddressSanitizer (x86_64)
	.ci/asan

soak: ## Run a server on a hostile network (SOAK=10m)
	$(CARGO) test --locked --test program -- --ignored --nocapture soak

bench: ## Compare speed with std, mio, Tokio and Python (5 minutes)
	$(CARGO) bench --locked --bench compare

doc: ## Build the documentation of the code, private items included
	$(CARGO) doc --locked --no-deps --document-private-items

install: $(BINARY) ## Install program, man pages, completions (PREFIX=/usr/local)
	install -d "$(root)/bin" "$(bash)" "$(zsh)" "$(fish)" "$(man)"
	install -m 755 "$(BINARY)" "$(root)/bin/udpong"
	umask 022 && "$(BINARY)" completions bash > "$(bash)/udpong"
	umask 022 && "$(BINARY)" completions zsh > "$(zsh)/_udpong"
	umask 022 && "$(BINARY)" completions fish > "$(fish)/udpong.fish"
	umask 022 && "$(BINARY)" man > "$(man)/udpong.1"
	umask 022 && for command in $(COMMANDS); do "$(BINARY)" man $$command > "$(man)/udpong-$$command.1" || exit; done

uninstall: ## Remove what `make install` installed
	rm -f "$(root)/bin/udpong" "$(bash)/udpong" "$(zsh)/_udpong" "$(fish)/udpong.fish" "$(man)/udpong.1"
	for command in $(COMMANDS); do rm -f "$(man)/udpong-$$command.1" || exit; done

clean: ## Remove everything that was built
	$(CARGO) clean
