# One build serves everything: the dev profile, so that tests, lab and demo share what is compiled.
# `make help` lists the targets.

CARGO ?= cargo
SETUP := netns-tests/setup
LAB := target/debug/nett-lab
LAB_DIR ?= .lab
# How many sites `make lab` has: 2 or 3.
SITES ?= 2
# How many borders, and route nodes, each site of `make lab` has: 1 or 2.
BORDERS ?= 1
# How many seeds `make sim` runs.
SEEDS ?= 10000
SERVICES ?= 100000
# How many VIPs of each family `make classes` has, and VIPs in all `make idle`.
VIPS ?= 100000
# The other release of `make releases`.
REV ?= HEAD
# How long `make fuzz` and `make soak` last, and agents are dead in `make dead`.
MINUTES ?= 30
# How many changes of others `make events` makes.
EVENTS ?= 1000000
# At how many places `make kill-sweep` kills an agent: all, or a number.
KILLS ?= all
# How often `make detection` cuts a link, of each side and kind.
CUTS ?= 20
# How long each flood of `make flood` lasts.
SECONDS ?= 30
export PATH := $(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help deps build check test bench many evacuate classes idle detection releases model sim soak events kill-sweep dead fuzz flood hostile demo lab lab-down

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

deps: ## Install the Debian packages that are missing
	@$(SETUP)/install-deps.sh

build: deps ## Build every program
	$(CARGO) build --workspace

check: deps ## Formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

test: check build ## Every test; needs the right to make network namespaces
	NETT_NETNS=required $(SETUP)/as-root.sh $(CARGO) test --workspace --no-fail-fast

ifneq ($(filter 11 12,$(ROW)),)
bench: detection
else
bench: ## Nett beside its peers, as ratios measured now; ROW=n for one row, ROUNDS=n
	@bench/install-peers.sh
	$(CARGO) build --release -p nett-bench
	target/release/nett-bench run $(if $(ROW),--row $(ROW)) $(if $(ROUNDS),--rounds $(ROUNDS))
	@echo "Rows 11 and 12, links that fail beside BIRD: make detection. The kernel side, idle agents,"
	@echo "very many services and floods: make classes, idle, many, evacuate, flood, hostile."
endif

many: ## An evacuation of SERVICES services with one approval: time and memory of each part
	NETT_MANY=$(SERVICES) $(CARGO) test --release -p nett-policy --test many_services -- --nocapture

classes: deps ## A site drain of VIPS VIPs beside a bare loop, and their installation beside BIRD
	NETT_NETNS=required NETT_VIPS=$(VIPS) $(SETUP)/as-root.sh \
	    $(CARGO) test -p nett-agent --test kernel_netns -- --nocapture draining_classes

evacuate: deps ## An evacuation of SERVICES services of a dead site by six agents, and its revert
	$(CARGO) build --release -p nett-agent -p nett-netns-tests
	NETT_NETNS=required NETT_MANY=$(SERVICES) NETT_PATIENCE=120 $(SETUP)/as-root.sh \
	    $(CARGO) test --release -p nett-netns-tests --test evacuated -- --nocapture

idle: deps ## Memory and processor time of agents with VIPS VIPs while nothing happens
	$(CARGO) build --release -p nett-agent -p nett-netns-tests
	NETT_NETNS=required NETT_VIPS=$(VIPS) NETT_IDLE_SECONDS=30 NETT_PATIENCE=60 $(SETUP)/as-root.sh \
	    $(CARGO) test --release -p nett-netns-tests --test idle -- --nocapture

detection: deps ## Links that fail, in silence and by carrier, beside BIRD with the same timers; CUTS of each
	$(CARGO) build --release -p nett-agent -p nett-netns-tests
	NETT_NETNS=required NETT_CUTS=$(CUTS) NETT_PATIENCE=20 $(SETUP)/as-root.sh \
	    $(CARGO) test --release -p nett-netns-tests --test detection -- --nocapture

releases: build ## This release at one site and that of REV at the other, and each in the place of the other
	rm -rf target/other/src && mkdir -p target/other/src
	git archive $(REV) | tar -x -C target/other/src
	$(CARGO) build --manifest-path target/other/src/Cargo.toml --target-dir target/other -p nett-agent --bins
	NETT_NETNS=required NETT_OTHER_RELEASE=$(CURDIR)/target/other/debug $(SETUP)/as-root.sh \
	    $(CARGO) test -p nett-netns-tests --test releases -- --nocapture

model: ## The model check of the quorum lease in larger bounds; takes minutes and gigabytes
	NETT_MODEL=large $(CARGO) test -p nett-policy --test lease_model -- --nocapture --test-threads 1

sim: ## Simulate SEEDS runs of many agents under faults, a sixth of them with leased services, and SEEDS of the kernel's writer
	NETT_SEEDS=$$(( $(SEEDS) - $(SEEDS) / 6 )) NETT_LEASED_SEEDS=$$(( $(SEEDS) / 6 )) $(CARGO) test --release -p nett-agent --test simulation no_seed \
	    -- --nocapture
	NETT_RECONCILE_SEEDS=$(SEEDS) $(CARGO) test --release -p nett-agent --test reconcile_seeds no_seed -- --nocapture

soak: build ## Random faults in the lab for MINUTES, or FAULTS of them, with probes; NETT_SEED=n repeats a run
	NETT_NETNS=required NETT_SOAK_SECONDS=$$(( $(MINUTES) * 60 )) \
	    $(if $(FAULTS),NETT_SOAK_FAULTS=$(FAULTS)) $(SETUP)/as-root.sh \
	    $(CARGO) test -p nett-netns-tests --test soak -- --nocapture

events: build ## An agent's memory over EVENTS changes of others
	NETT_NETNS=required NETT_EVENTS=$(EVENTS) $(SETUP)/as-root.sh \
	    $(CARGO) test -p nett-netns-tests --test many_events -- --nocapture

kill-sweep: build ## SIGKILL at every write to disk and to the kernel of a failover and of a cold start, or at KILLS
	NETT_NETNS=required NETT_KILLS=$(KILLS) $(SETUP)/as-root.sh \
	    $(CARGO) test -p nett-netns-tests --test kill_sweep --test cold_start -- --nocapture

dead: build ## The agents of a site killed, and dead for MINUTES
	NETT_NETNS=required NETT_DEAD_SECONDS=$$(( $(MINUTES) * 60 )) $(SETUP)/as-root.sh \
	    $(CARGO) test -p nett-netns-tests --test dead_agents -- --nocapture

# Each target is a test.
FUZZ_TARGETS = $$(cat dns/tests/fuzz.rs agent/tests/fuzz.rs | grep -c '^\#\[test\]')

fuzz: deps ## Every parser against changed inputs for MINUTES, each target in turn
	NETT_FUZZ_SECONDS=$$(( $(MINUTES) * 60 / $(FUZZ_TARGETS) )) $(CARGO) test -p nett-dns -p nett-agent --test fuzz \
	    -- --nocapture --test-threads 1

flood: deps ## The name server at twice what it can answer; SECONDS of each kind of flood
	NETT_NETNS=required NETT_FLOOD_SECONDS=$(SECONDS) $(SETUP)/as-root.sh \
	    $(CARGO) test --release -p nett-dns --test flood -- --nocapture

hostile: deps ## One login that floods the bus: what the agents beside it do meanwhile
	$(CARGO) build --release -p nett-agent -p nett-netns-tests
	NETT_NETNS=required $(SETUP)/as-root.sh \
	    $(CARGO) test --release -p nett-netns-tests --test flood -- --nocapture

demo: build ## Build a two-site lab, tell the story with measured numbers, clean up
	$(SETUP)/as-root.sh $(LAB) demo --dir $(LAB_DIR)/demo --prefix nett-demo

lab: build ## The same lab, left running; prints a line to source (needs root). SITES=3: a third site, BORDERS=2: pairs
	@$(LAB) up --dir $(LAB_DIR)/lab --prefix nett --sites $(SITES) \
	    --borders $(BORDERS)

lab-down: ## Remove the lab, also after a crash
	@for lab in $(LAB_DIR)/lab $(LAB_DIR)/demo; do \
	    if [ -e $$lab/lab.json ]; then $(LAB) down --dir $$lab || exit 1; fi; \
	done
