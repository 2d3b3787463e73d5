# SPDX-License-Identifier: GPL-3.0-or-later
# Every target prepares what it needs by itself; nothing is installed into the checkout.
.DEFAULT_GOAL := help
CHECK := tests/env/check
GROUPS := lint types repo unit sim sanity collection molecule long

.PHONY: help env lab demo demo-down test soak bench bench-gate docs $(GROUPS)

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## On a real cluster: install, deploy, release v2, see a broken v3 taken back
	@tests/demo/run

demo-down: ## Remove what the demo made
	@tests/demo/down

test: ## All checks: lint, types, unit, simulated releases, sanity, the collection, molecule on the lab
	@$(CHECK) $(ARGS)

env: ## The virtual environments, outside the checkout
	@tests/env/setup

lab: ## Build the lab: kind, its node image, Istio, the images (minutes, once)
	@tests/lab/lab build

lint: ## ruff, yamllint, ansible-lint, documentation and changelog
types: ## mypy, strict
repo: ## Rules of this repository: layers, sizes, variables, versions
unit: ## Unit tests, with the oldest and the newest of what is supported
sim: ## Simulated releases, killed at every write
sanity: ## ansible-test sanity, with the oldest and the newest ansible-core
collection: ## Build the tarball, look into it, install it elsewhere and use it
molecule: ## All molecule scenarios on the lab
long: ## The long scenarios: Istio by both methods, gateways, who sees the canary, GitOps, many shapes, incidents; not part of `make test`
$(GROUPS):
	@$(CHECK) $(ARGS) $@

soak: ## Repeated releases under load, hours; writes dated result files. Some of it: ARGS="--only traffic"
	@tests/soak/run $(ARGS)

bench: ## What the modules cost, against kubernetes.core; what proxies cost, and many services at once; what each counter sees
	@tests/bench/run
	@tests/bench/run programmed
	@tests/bench/run counters

bench-gate: ## How often the gate errs and how soon it decides, simulated, beside Flagger's and Argo Rollouts' rules
	@tests/bench/run gate $(ARGS)

docs: ## The reference of modules and roles, as files under the cache
	@tests/env/check --reference
