# Every target calls one script in one line. `make` alone lists the targets.
.DEFAULT_GOAL := help
.PHONY: bench bench-growth bench-recovery drill help up down clean status monitor logs passwords secrets render reference site pins audit test test-all test-long test-next test-production lint env lab lab-down play

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

up: ## start the whole stack and check its first deliveries (BROKER=redis: Redis as the broker; RESULTS=valkey)
	@BROKER=$(BROKER) RESULTS=$(RESULTS) scripts/up

down: ## stop the stack, keep its data
	@scripts/down

clean: ## remove everything that make up has created; asks first (YES=1: does not ask)
	@YES=$(YES) scripts/clean

status: ## show what runs and what the sample application has delivered
	@scripts/status

monitor: ## print the addresses of the monitoring pages and the alerts that fire now
	@scripts/monitor

logs: ## show the last lines of every log (TAIL=100: more of them)
	@TAIL=$(TAIL) scripts/logs

passwords: ## show the logins of the stack
	@scripts/passwords

secrets: ## create the missing passwords and keys in the vault of your inventory (INVENTORY=yours)
	@scripts/play secrets

render: env ## write compose/config from the templates (INVENTORY=yours OUT=dir: for your own hosts)
	@INVENTORY=$(INVENTORY) OUT=$(OUT) scripts/render

reference: env ## write docs/reference from the code
	@.venv/bin/python scripts/reference

site: env ## build the documentation as a site in build/site and check every link
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet

pins: env ## check which pinned versions are still maintained, and until when
	@.venv/bin/python scripts/pins

audit: env ## write build/sbom.json (CycloneDX) and report known vulnerabilities of the locked releases
	@scripts/audit

lab: env ## start bare Debian hosts in containers for Ansible: those of ansible/inventories/lab (OS=debian13)
	@HOLDFAST_LAB_OS=$(or $(OS),$(HOLDFAST_LAB_OS)) scripts/lab up && INVENTORY=ansible/inventories/lab scripts/play secrets

lab-down: ## remove the lab hosts with everything on them
	@scripts/lab down

play: env ## run a playbook on your hosts (PLAYBOOK=site INVENTORY=yours ARGS="--check"; the lab by default)
	@scripts/play $(or $(PLAYBOOK),site) $(ARGS)

test: ## run the static checks, the unit tests, and the tests of the guarantee, which break the stack on purpose
	@scripts/test

test-all: ## run what make test leaves out: every other test on the stack, then the playbooks on bare hosts
	@scripts/test-all

test-long: env ## run the tests that take long: more faults on the stack, playbooks on this machine, other servers, each framework
	@.venv/bin/pytest -m "long or slow"

test-next: env ## run the library's unit tests with the newest celery, kombu and redis-py, pre-releases too; reports only
	@scripts/test-next

test-production: env ## run every playbook on bare hosts in containers, under load where servers stop (STEPS="site drill")
	@.venv/bin/pytest --verbose tests/production --steps "$(STEPS)"

drill: env ## break the running stack on purpose and count what was lost (SET=smoke, standard or full)
	@.venv/bin/python -m drill run --set $(or $(SET),standard)

bench: ## compare with stock, dramatiq, taskiq and raw clients: table, JSON, picture (CASES="stock ..." AGAINST=FILE)
	@scripts/env --group bench && .venv/bin/python -m bench $(if $(AGAINST),--against $(AGAINST)) $(CASES)

bench-recovery: ## kill worker, broker and Redis primary under the same systems: who works again when (FAULTS="broker redis")
	@scripts/env --group bench && .venv/bin/python -m bench.recovery $(FAULTS)

bench-growth: ## measure the speed with a backlog and over queues, connections, sizes (PARTS="backlog ..." WAITING=20000)
	@scripts/env --group bench && .venv/bin/python -m bench.growth $(if $(WAITING),--waiting $(WAITING)) $(PARTS)

lint: env ## run only the static checks
	@scripts/lint

env: ## create .venv for tests, checks and rendering
	@scripts/env
