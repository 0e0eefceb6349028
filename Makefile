# make run and make test need Go, make and git and nothing else.

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# giouring links on Go >= 1.23 only without the linker's check of linkname.
GIOURING := -tags giouring -ldflags=-checklinkname=0

# For make fuzz: how long each target runs. For make bench: arguments of the load generator.
FUZZTIME ?= 10s
BENCH ?=
# For make torture-disk: how many power cuts, and what random numbers begin with (empty: the clock).
CUTS ?= 1000
SEED ?=
# For make simulate: how many histories.
SEEDS ?= 20000
# For make chaos: how long. For make failover: how many kills. For make cluster: more flags of localcluster, or, behind --, of each weir serve.
SECONDS ?= 60
RUNS ?= 30
CLUSTER ?=

.PHONY: run cluster build test lint test-race test-clients test-faults test-scale test-cluster failover chaos simulate test-giouring torture-disk client-tools bench bench-limits bench-peers bench-cluster fuzz generate clean

run: build
	./bin/weir serve

# Three brokers on 127.0.0.1, .2 and .3, ports 9092 (clients), 9192 (each other) and 9644 (HTTP), data in ./data/cluster. Ctrl-C stops them.
cluster: build
	@go build -C test -o ../bin/localcluster ./localcluster
	@exec ./bin/localcluster -bin ./bin/weir -dir ./data/cluster $(CLUSTER)

build:
	go build -ldflags "-X main.version=$(VERSION)" -o bin/weir ./cmd/weir

test:
	go test -timeout 10m ./...

# Everything that can be checked without running the product.
lint:
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted with gofmt:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go vet -tags invariants ./...
	go vet -tags giouring ./uring/...
	go vet -tags clockstep ./internal/clock
	cd test && go vet ./...
	go run $(STATICCHECK) ./...
	cd test && go run $(STATICCHECK) ./...
	go test -count=1 ./internal/house

# The race detector needs a C compiler. The invariants tag poisons released buffers.
test-race:
	CGO_ENABLED=1 go test -race -tags invariants -timeout 20m ./...

test-giouring:
	go test $(GIOURING) -count=1 -timeout 10m ./uring/...

# Real clients: kcat, Apache Kafka's Java client, franz-go.
test-clients: client-tools
	cd test && go test ./clients/... -count=1 -timeout 30m -v

# Crashes, full and frozen disks, broken peers; at CI sizes with -short (make test-faults SHORT=-short).
test-faults:
	cd test && go test -p 1 ./internal/... ./faults/... -count=1 -timeout 60m -v $(SHORT)

# Clusters of real processes: forming, failover, rolling restart, routing. At CI sizes with SHORT=-short.
test-cluster:
	cd test && go test -p 1 ./cluster/... ./localcluster/... -count=1 -timeout 30m -v $(SHORT)

# kill -9 of leaders and controllers under load, and for how long partitions cannot be written to. make failover RUNS=30; FAILOVER_OUT=file takes the figures as JSON.
failover:
	cd test && WEIR_TEST_FAILOVER_RUNS=$(RUNS) WEIR_TEST_FAILOVER_OUT=$(if $(FAILOVER_OUT),$(abspath $(FAILOVER_OUT))) go test ./cluster -run '^TestFailoverRuns$$' -count=1 -timeout 2h -v

# A cluster under faults at random: kills, pauses, cut networks, bad disks, clocks that jump; needs root, ip, iptables, and for the disks what
# torture-disk needs. make chaos SECONDS=600 SEED=7.
chaos:
	go test -tags clockstep -count=1 ./internal/clock
	cd test && WEIR_TEST_CHAOS_SECONDS=$(SECONDS) WEIR_SEED=$(SEED) go test ./chaos -run '^TestChaos$$' -count=1 -timeout 24h -v
	cd test && go test ./chaos -run '^TestIsolatedController$$|^TestClockSteps$$' -count=1 -timeout 10m -v

# Whole clusters of the pure state machines under faults at random, in simulated time. A seed that failed again: WEIR_SEED=n go test ./simulation -run TestClusters
simulate:
	WEIR_TEST_SEEDS=$(SEEDS) go test ./simulation -run '^TestClusters$$' -count=1 -timeout 24h -v

# Power cuts on ext4 and XFS; needs root, /dev/fuse and loop devices. make torture-disk CUTS=200 SEED=7 repeats what a failure printed.
torture-disk:
	cd test && WEIR_TEST_CUT_CYCLES=$(CUTS) WEIR_SEED=$(SEED) go test ./faults -run '^TestPowerCut$$' -count=1 -timeout 8h -v

# Ten thousand partitions and 10 GiB: restart after a kill, idle, a little to every partition, deletion. SHORT=-short for CI's size;
# other sizes are in test/scale/main_test.go.
test-scale:
	cd test && go test ./scale/... -count=1 -timeout 60m -v $(SHORT)

# Installs what test-clients needs and is not there, where there is apt and the right to use it.
client-tools:
	@missing=""; \
	command -v kcat >/dev/null || missing="$$missing kcat"; \
	command -v java >/dev/null || missing="$$missing default-jre-headless"; \
	command -v mvn >/dev/null || missing="$$missing maven"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then echo "please install:$$missing"; exit 0; fi; \
	sudo=""; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	echo "installing:$$missing"; \
	$$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing

# The load generator starts a broker of its own; results go to bench/results. Flags: make bench BENCH="-duration 5s -rounds 1".
bench:
	go run ./bench run $(BENCH)

# What the machine can do without a broker: the ceiling that results are compared with.
bench-limits:
	go run ./bench limits $(BENCH)

# The same load on Apache Kafka, which Maven fetches; without Java or Maven its column says so.
bench-peers:
	go run ./bench peers $(BENCH)

# Three nodes with every partition on all of them, Weir and Apache Kafka, and Weir on one node. Five rounds take an hour and a half; make bench-cluster
# BENCH=-quick takes four minutes.
bench-cluster:
	go run ./bench cluster $(BENCH)

# Every fuzz target for a while, one after the other.
fuzz:
	@set -e; for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | grep -v '^./test/' | xargs -n1 dirname | sort -u); do \
	  for target in $$(grep -h '^func Fuzz' $$dir/*_test.go | sed 's/func \(Fuzz[A-Za-z0-9_]*\).*/\1/'); do \
	    echo "$$dir $$target"; \
	    go test $$dir -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME); \
	  done; \
	done

generate:
	go generate ./internal/config

# The data directory stays: it is yours.
clean:
	rm -rf bin .bench test/clients/java/target bench/peers/kafka/target
