#!/bin/sh
# Behaves like the official image's entry point: options and a .conf file are for valkey-server; root steps down.
set -eu

case ${1:-} in
  -* | *.conf) set -- valkey-server "$@" ;;
esac

if [ "${1:-}" = valkey-server ]; then
  if [ "$(id -u)" = 0 ]; then
    find . ! -user valkey -exec chown valkey {} +
    exec gosu valkey "$0" "$@"
  fi
  # Data files are for the server's user alone, unless the caller chose otherwise.
  [ "$(umask)" != 0022 ] || umask 0077
fi
exec "$@"
