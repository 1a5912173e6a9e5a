#!/bin/sh
# Behaves like the official image's entry point: options and a .conf file are for redis-server; root steps down.
set -eu

case ${1:-} in
  -* | *.conf) set -- redis-server "$@" ;;
esac

case ${1:-} in
  redis-server | redis-sentinel)
    if [ "$(id -u)" = 0 ]; then
      find . ! -user redis -exec chown redis {} +
      exec gosu redis "$0" "$@"
    fi
    # Data files are for the server's user alone, unless the caller chose otherwise.
    [ "$(umask)" != 0022 ] || umask 0077
    ;;
esac
exec "$@"
