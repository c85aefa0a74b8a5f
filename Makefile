# Everything a developer does has a target; `make help` lists them.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
BUF_VERSION := v1.75.0
PROTOVALIDATE_VERSION := v1.2.2
BUF := GOFLAGS= go run github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)
FUZZTIME ?= 30s
# The race detector needs a C compiler.
RACE := $(shell command -v cc >/dev/null 2>&1 && echo -race)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

.PHONY: build
build: ## build bin/fetchgate
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/fetchgate ./cmd/fetchgate

.PHONY: run
run: build ## build, then serve on loopback
	bin/fetchgate serve

.PHONY: demo
demo: build ## see it fetch, stream, deny and explain
	bin/fetchgate demo

.PHONY: test
test: ## run the tests, with the race detector where there is a C compiler
	@[ -n "$(RACE)" ] || echo "note: no C compiler, so the race detector is off"
	go test $(RACE) -short ./...

.PHONY: test-slow
test-slow: ## run the tests that take longer too
	go test $(RACE) -timeout 30m ./...
	go test -run Alloc ./service/... # under the race detector pools forget what they were given

.PHONY: lint
lint: proto-deps ## go vet, staticcheck, gofmt, buf lint and format
	go vet ./...
	go tool staticcheck ./...
	@out=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); [ -z "$$out" ] || { echo "gofmt wants to change: $$out"; exit 1; }
	$(BUF) lint
	$(BUF) format -d --exit-code --path proto/fetchgate

.PHONY: proto-deps
proto-deps: ## copy in the third-party .proto files that the configuration imports
	@dir=$$(cd /; GOFLAGS= go mod download -json github.com/bufbuild/protovalidate@$(PROTOVALIDATE_VERSION) | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p'); \
	mkdir -p proto/buf/validate; \
	install -m 644 "$$dir/proto/protovalidate/buf/validate/validate.proto" proto/buf/validate/

.PHONY: generate
generate: proto-deps ## generate gen/ from proto/
	$(BUF) format -w --path proto/fetchgate
	$(BUF) generate

.PHONY: check-generated
check-generated: proto-deps ## check that gen/ is what proto/ generates
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	$(BUF) generate -o "$$tmp"; \
	diff -r "$$tmp/gen" gen || { echo "gen/ is not current: run make generate"; exit 1; }

.PHONY: iana
iana: ## renew the address registries from www.iana.org
	go run ./service/iana/internal/renew

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (default 30s) each
	@for pkg in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 50x $$pkg; \
		done; \
	done

.PHONY: bench
bench: ## measure beside a naive service: at most 90 s after the build
	go run ./bench

.PHONY: deps-fidelity
deps-fidelity: ## get Python's requests, which fidelity compares with, into bin/fidelity
	@command -v python3 >/dev/null || { echo "fidelity compares with a Python library, and there is no python3"; exit 1; }
	python3 -m venv bin/fidelity
	bin/fidelity/bin/pip install --quiet --disable-pip-version-check -r bench/fidelity/requirements.txt

.PHONY: fidelity
fidelity: deps-fidelity ## write the tables of docs/fidelity.md
	go run ./bench/fidelity -write

.PHONY: ci
ci: build lint check-generated test-slow ## what CI runs
