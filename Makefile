# Everything that a contributor runs. Tools that are not on the machine are built from the module proxy, once, into a cache
# outside the tree.
SHELL := /bin/bash
GO ?= go
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/regent
GOLANGCI_VERSION := v2.15.0
GOLANGCI := $(CACHE)/tools/golangci-lint-$(GOLANGCI_VERSION)
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION)
TEST_TIMEOUT ?= 25m
# Tests on a real Apache Kafka have it in their names, also where they are one case of a test.
NEEDS_JAVA := ApacheKafka|./ApacheKafka|././ApacheKafka
# What is a module of its own: contenders of the benchmark, and programs that others copy.
MODULES := bench/copy bench/goka docs/clients/go
COVER_PKGS := ./processors/...,./internal/stream/...,./statestore/...
COVER_MIN := 85

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z0-9_-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/regent
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/regent ./cmd/regent

.PHONY: demo
demo: build ## Run the main job on three real PostgreSQL nodes (ARGS=--script: unattended, exit status tells)
	bin/regent demo $(ARGS)

.PHONY: java
java:
	@.ci/java

.PHONY: languages
languages:
	@.ci/languages

.PHONY: test
test: java languages ## Run all tests
	$(GO) test -timeout $(TEST_TIMEOUT) ./...

.PHONY: test-embedded
test-embedded: languages ## Run the tests that need no Java: all but those on a real Apache Kafka
	REGENT_TEST_JAVA=none $(GO) test -timeout $(TEST_TIMEOUT) -skip '$(NEEDS_JAVA)' ./...

.PHONY: test-race
test-race: java languages ## Run all tests under the race detector
	$(GO) test -race -timeout $(TEST_TIMEOUT) ./...

.PHONY: soak
soak: build ## A failover a minute for 30 minutes; memory and goroutines must stay flat
	bin/regent demo --script --soak 30m

.PHONY: soak-kill
soak-kill: ## Kill `regent up` 200 times under load, and the embedded broker 200 times
	REGENT_KILL_ROUNDS=200 $(GO) test -count=1 -timeout 120m -v -run SIGKILL ./cmd/regent/killtest
	REGENT_EMBEDDED_ROUNDS=200 $(GO) test -count=1 -timeout 60m -run SIGKILL ./internal/embedded

.PHONY: bench
bench: ## Measure against Kafka Streams, Goka and the bare limit on a real Kafka (ARGS='-rounds 3 -only catchup -contenders regent,copy': minutes)
	$(GO) run ./bench $(ARGS)

.PHONY: soak-crash
soak-crash: java ## 1,000 crash rounds of the runtime on the embedded broker, 200 on Apache Kafka; writes crash-report.md
	rm -f crash-report.md
	REGENT_CRASH_ROUNDS=1000 REGENT_CRASH_REPORT=$(CURDIR)/crash-report.md $(GO) test -count=1 -timeout 180m -run TestCrashRounds ./internal/stream
	@cat crash-report.md

.PHONY: soak-scale
soak-scale: java ## 100 rounds of two processes that share 8 partitions on Apache Kafka, one of which dies
	REGENT_SCALE_ROUNDS=100 $(GO) test -count=1 -timeout 60m -v -run TestTwoProcesses ./internal/stream

.PHONY: bench-takeover
bench-takeover: java ## Kill a process with 1,000,000 keys and measure until its standby has the first new output
	REGENT_TAKEOVER_KEYS=1000000 $(GO) test -count=1 -timeout 20m -v -run TestTakeOver ./internal/stream

.PHONY: bench-rolling
bench-rolling: java ## Restart two processes with 1,000,000 keys one after the other under load and measure the longest pause of a task
	REGENT_ROLLING_KEYS=1000000 $(GO) test -count=1 -timeout 20m -v -run TestRolling ./internal/stream

.PHONY: replay-moments
replay-moments: java ## Ask for 1,000 moments of each of four histories, with compaction, on Apache Kafka and on the embedded broker
	REGENT_REPLAY_MOMENTS=1000 $(GO) test -count=1 -timeout 60m -v -run TestWhatWasServed ./internal/replay

.PHONY: bench-quick
bench-quick: ## Hold what a record costs in allocations and instructions against the budget (a part of make test, too)
	$(GO) test -count=1 -v ./bench/quick

.PHONY: cover
cover: ## Statement coverage of the processors, the runtime and the state store; fails below COVER_MIN
	$(GO) test -timeout $(TEST_TIMEOUT) -coverpkg=$(COVER_PKGS) -coverprofile=coverage.out ./processors/... ./internal/stream/... ./statestore/...
	@.ci/coverage coverage.out $(COVER_MIN) /processors/ /internal/stream/ /statestore/

.PHONY: lint
lint: $(GOLANGCI) check-generated ## Run the linters and check that generated code is current
	$(GO) vet ./...
	for dir in $(MODULES); do (cd $$dir && $(GO) vet ./...) || exit 1; done
	$(GOLANGCI) run ./...

.PHONY: fmt
fmt: $(GOLANGCI) ## Format the code
	$(GOLANGCI) fmt ./...

$(GOLANGCI):
	@mkdir -p $(CACHE)/tools
	GOFLAGS= GOBIN=$(CACHE)/tools $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv $(CACHE)/tools/golangci-lint $@

.PHONY: generate
generate: ## Generate the Go types and their codec from schemas/*.avsc
	$(GO) generate ./schemas

.PHONY: check-generated
check-generated: ## Check that the generated code and docs/asyncapi.yaml are current
	$(GO) run ./schemas/gen -dir schemas -check
	@$(GO) run ./cmd/regent topics asyncapi | cmp - docs/asyncapi.yaml || { echo "docs/asyncapi.yaml is not current: make generate" >&2; exit 1; }

.PHONY: clean
clean: ## Remove what was built here
	rm -rf bin coverage.out crash-report.md
