# What one does with udpong, each in a word. Needs Rust; `make test` also uses the tools that .ci/run installs,
# and says which tests it leaves out without them.

CARGO := cargo

BUILT := $(or $(CARGO_TARGET_DIR),target)/release/udpong

# What `make install` installs, and where: below PREFIX, and that below DESTDIR when a package is made.
BINARY := $(BUILT)
PREFIX := /usr/local
DESTDIR :=
COMMANDS := serve relay send ping bench completions man

root = $(DESTDIR)$(PREFIX)
bash = $(root)/share/bash-completion/completions
zsh = $(root)/share/zsh/site-functions
fish = $(root)/share/fish/vendor_completions.d
man = $(root)/share/man/man1

.DEFAULT_GOAL := help
.PHONY: help build run test soak lint doc bench install uninstall clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

build: $(BUILT) ## Build the program, target/release/udpong

# Not asked of cargo when nothing changed, so that `sudo make install` needs no Rust.
$(BUILT): Cargo.toml Cargo.lock $(shell find src -name '*.rs')
	$(CARGO) build --release --locked

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

install: $(BINARY) ## Put program, manual and completions below PREFIX (/usr/local)
	install -d "$(root)/bin" "$(bash)" "$(zsh)" "$(fish)" "$(man)"
	install -m 755 "$(BINARY)" "$(root)/bin/udpong"
	umask 022 && "$(BINARY)" completions bash > "$(bash)/udpong"
	umask 022 && "$(BINARY)" completions zsh > "$(zsh)/_udpong"
	umask 022 && "$(BINARY)" completions fish > "$(fish)/udpong.fish"
	umask 022 && "$(BINARY)" man > "$(man)/udpong.1"
	umask 022 && for command in $(COMMANDS); do "$(BINARY)" man $$command > "$(man)/udpong-$$command.1" || exit; done

uninstall: ## Remove what `make install` put there
	rm -f "$(root)/bin/udpong" "$(bash)/udpong" "$(zsh)/_udpong" "$(fish)/udpong.fish" "$(man)/udpong.1"
	for command in $(COMMANDS); do rm -f "$(man)/udpong-$$command.1" || exit; done

clean: ## Remove what was built
	$(CARGO) clean
