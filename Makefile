# The front door. `make` alone lists what there is; every target installs the packages it needs (scripts/packages.txt).
PREFIX ?= $(HOME)/.bpftime
# Worker processes of the build; tests use at most two at a time whatever this says.
export JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 20

.PHONY: help demo tutorials firewall disasters test test-long sanitize bench bench-nginx fuzz matrix lint install uninstall clean build
.DEFAULT_GOAL := help
.NOTPARALLEL:

help: ## this list
	@echo "bpftime: eBPF tools, unmodified, in userspace"
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## a stock libbpf tool counts malloc calls of two programs, without kernel eBPF
	@scripts/ensure-packages.sh build
	@scripts/demo.sh

build: ## the everyday build (preset dev)
	@scripts/ensure-packages.sh build
	@scripts/build.sh dev

test: ## all tests but the long ones
	@scripts/ensure-packages.sh build test
	@scripts/unpack-packages.sh test || echo "note: tests that need them will say so and be skipped"
	@scripts/build.sh dev
	@scripts/test.sh --label-exclude long

test-long: ## all tests, then `sanitize`: hours
	@scripts/ensure-packages.sh build test
	@scripts/unpack-packages.sh test || echo "note: tests that need them will say so and be skipped"
	@scripts/build.sh dev
	@scripts/test.sh
	@$(MAKE) --no-print-directory sanitize

sanitize: ## the tests with daemon and command under AddressSanitizer and UBSan, then under ThreadSanitizer
	@scripts/ensure-packages.sh build test
	@scripts/unpack-packages.sh test || echo "note: tests that need them will say so and be skipped"
	@scripts/sanitize.sh asan --label-exclude long
	@scripts/sanitize.sh tsan --label-exclude long --tests-regex '^(base|daemon|e2e|kernel|loader|maps|running|target|wire)_'

tutorials: ## extensions for the three roles, as docs/eim.md has them, in an empty folder
	@scripts/ensure-packages.sh build
	@scripts/build.sh dev bpftime bpftimed bpftime-agent bpftime-loader
	@/usr/bin/python3 -B tests/eim_tutorials.py build/dev .

firewall: ## an nginx firewall of extensions, checked with curl and wrk
	@scripts/ensure-packages.sh build test
	@scripts/unpack-packages.sh test
	@scripts/build.sh dev bpftime bpftimed bpftime-agent bpftime-loader
	@tests/e2e/nginx_firewall_test.sh "$(CURDIR)" "$(CURDIR)/build/dev"

disasters: ## three published disasters, as native modules and as extensions
	@scripts/ensure-packages.sh build test
	@scripts/unpack-packages.sh disasters
	@scripts/build.sh dev bpftime bpftimed bpftime-agent bpftime-loader
	@PATH="$(CURDIR)/build/dev/bin:$$PATH" example/disasters/run.sh

bench: ## bare, kernel and ours, measured in one interleaved run
	@scripts/ensure-packages.sh build
	@scripts/build.sh release probes_bench map_ops_bench engine_bench verifier_bench
	@scripts/bench.sh

bench-nginx: ## a firewall in nginx as C module, eBPF, Lua, njs and wasm, in one interleaved run
	@scripts/ensure-packages.sh build bench-nginx
	@scripts/unpack-packages.sh bench-nginx
	@scripts/build.sh release bpftime bpftimed bpftime-agent bpftime-loader
	@scripts/bench-nginx.sh

fuzz: ## each parser against random bytes, FUZZ_SECONDS each
	@scripts/ensure-packages.sh build fuzz
	@scripts/build.sh fuzz fuzz_targets
	@scripts/fuzz.sh $(FUZZ_SECONDS)

matrix: ## docs/eim-enforcement.md, made from its cells
	@scripts/ensure-packages.sh build
	@scripts/build.sh dev bpftime
	@/usr/bin/python3 -B tests/enforcement/matrix.py build/dev/bin/bpftime clang-19 cc . --write

lint: ## format and layers
	@scripts/ensure-packages.sh lint
	@scripts/lint.sh

install: ## into PREFIX (default ~/.bpftime; /usr/local has bin), below DESTDIR
	@scripts/ensure-packages.sh build
	@scripts/build.sh release bpftime bpftimed bpftime-agent bpftime-loader
	@scripts/install.sh "$(abspath $(PREFIX))"

uninstall: ## what install put into PREFIX
	@scripts/install.sh --remove "$(abspath $(PREFIX))"

clean: ## remove what was built
	@rm -rf build
	@$(MAKE) --no-print-directory -C example/malloc clean
	@$(MAKE) --no-print-directory -C example/nginx_firewall clean
	@$(MAKE) --no-print-directory -C example/disasters clean
