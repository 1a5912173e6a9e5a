# Every verb is one line into a script. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: bench drill help up down clean status monitor logs passwords secrets render reference site pins audit test test-all test-long test-next test-production lint env lab lab-down play

help: ## list the verbs
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

up: ## everything needed, then the whole stack with its first deliveries (BROKER=redis: Redis as the broker)
	@BROKER=$(BROKER) scripts/up

down: ## stop the stack, keep its data
	@scripts/down

clean: ## remove everything that make up has made; asks first (YES=1: does not ask)
	@YES=$(YES) scripts/clean

status: ## what runs, and what the sample application has delivered
	@scripts/status

monitor: ## where the alerts, graphs and tasks of the running stack are shown, and what is wrong now
	@scripts/monitor

logs: ## the last lines of every log (TAIL=100: more of them)
	@TAIL=$(TAIL) scripts/logs

passwords: ## the logins of the running stack
	@scripts/passwords

secrets: ## make the passwords and keys that are missing in the vault of your own hosts (INVENTORY=yours)
	@scripts/play secrets

render: env ## write compose/config from the templates (INVENTORY=yours OUT=dir: for your own hosts)
	@INVENTORY=$(INVENTORY) OUT=$(OUT) scripts/render

reference: env ## write docs/reference from what the code says of itself
	@.venv/bin/python scripts/reference

site: env ## the documentation as a site in build/site, every link checked
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet

pins: env ## compare compose/pins.yaml with the date and the tree: what is maintained, until when
	@.venv/bin/python scripts/pins

audit: env ## build/sbom.json (CycloneDX), and what is known against the locked releases
	@scripts/audit

lab: env ## bare Debian hosts in containers, for Ansible: the hosts of ansible/inventories/lab
	@scripts/lab up && INVENTORY=ansible/inventories/lab scripts/play secrets

lab-down: ## remove those hosts, with everything on them
	@scripts/lab down

play: env ## run a playbook on your hosts (PLAYBOOK=site INVENTORY=yours ARGS="--check"; the lab by default)
	@scripts/play $(or $(PLAYBOOK),site) $(ARGS)

test: ## prove this checkout: checks, unit tests, and the promise kept by the stack while it is broken on purpose
	@scripts/test

test-all: ## what make test leaves out: every other test on the stack, then the playbooks on bare hosts
	@scripts/test-all

test-long: env ## the tests that break the stack many times over, on the running stack (make up first)
	@.venv/bin/pytest -m long

test-next: env ## the library's unit tests with the newest celery, kombu and redis-py, pre-releases too; reports only
	@scripts/test-next

test-production: env ## every playbook on bare hosts in containers, those that stop something under load (STEPS="site drill")
	@scripts/test-production $(STEPS)

drill: env ## break the running stack on purpose and count what was lost (SET=smoke, standard or full)
	@.venv/bin/python -m drill run --set $(or $(SET),standard)

bench: env ## what durability costs on the running stack: ratios as a table and JSON (CASES="group_commit ...")
	@.venv/bin/python -m bench $(CASES)

lint: env ## the static checks alone
	@scripts/lint

env: ## make .venv for tests, checks and rendering
	@scripts/env
