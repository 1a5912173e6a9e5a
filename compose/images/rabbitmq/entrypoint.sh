#!/usr/bin/env bash
# Behaves like the official image's entry point: root hands the data over and steps down; old variables are refused.
set -euo pipefail

if [[ ${1:-} == rabbitmq* && $(id -u) == 0 ]]; then
  if [[ $1 == rabbitmq-server ]]; then
    find /var/lib/rabbitmq ! -user rabbitmq -exec chown rabbitmq {} +
  fi
  exec gosu rabbitmq "$0" "$@"
fi

refused=()
for name in RABBITMQ_VM_MEMORY_HIGH_WATERMARK \
  RABBITMQ_DEFAULT_{USER,PASS}_FILE \
  RABBITMQ_SSL_{CACERTFILE,CERTFILE,DEPTH,FAIL_IF_NO_PEER_CERT,KEYFILE,VERIFY} \
  RABBITMQ_MANAGEMENT_SSL_{CACERTFILE,CERTFILE,DEPTH,FAIL_IF_NO_PEER_CERT,KEYFILE,VERIFY}; do
  [[ -z ${!name:-} ]] || refused+=("$name")
done
if ((${#refused[@]})); then
  echo "error: ${refused[*]}: no longer read by RabbitMQ; put the setting into a configuration file" >&2
  exit 1
fi

# A host name with a domain needs long node names.
if [[ -z ${RABBITMQ_USE_LONGNAME:-} && $(hostname) != $(hostname -s) ]]; then
  export RABBITMQ_USE_LONGNAME=true
fi
exec "$@"
