#!/usr/bin/env bash
# Behaves like the official image's entry point for what the stack uses: an empty data folder becomes a database with the
# user, password and name given; files in /docker-entrypoint-initdb.d run once; root steps down.
set -euo pipefail

# settle NAME DEFAULT: sets NAME from itself, or from the file that NAME_FILE names. Done as root: the file may be root's.
settle() {
  local file=${1}_FILE
  if [[ -n ${!1:-} && -n ${!file:-} ]]; then
    echo "error: $1 and $file are both set; set one" >&2
    exit 1
  fi
  if [[ -n ${!file:-} ]]; then
    export "$1=$(<"${!file}")"
  else
    export "$1=${!1:-$2}"
  fi
  unset "$file"
}

initialise() {
  local user=$POSTGRES_USER password=$POSTGRES_PASSWORD name=$POSTGRES_DB
  if [[ -z $password && ${POSTGRES_HOST_AUTH_METHOD:-} != trust ]]; then
    echo "error: the data folder is empty and POSTGRES_PASSWORD is not set; set it (or POSTGRES_PASSWORD_FILE)" >&2
    exit 1
  fi

  local options=()
  read -ra options <<<"${POSTGRES_INITDB_ARGS:-}"
  initdb --username "$user" --pwfile <(printf '%s\n' "$password") "${options[@]}"
  printf '\nhost all all all %s\n' "${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >>"$PGDATA/pg_hba.conf"

  # Not reachable from outside before everything below has gone through.
  pg_ctl --wait --options "-c listen_addresses=''" start
  local psql=(psql --no-psqlrc --no-password --set ON_ERROR_STOP=1 --username "$user")
  [[ $name == postgres ]] || "${psql[@]}" --dbname postgres --set "name=$name" <<<'CREATE DATABASE :"name"'
  local file
  for file in /docker-entrypoint-initdb.d/*; do
    case $file in
      *.sql) "${psql[@]}" --dbname "$name" --file "$file" ;;
      *.sh) bash "$file" ;;
    esac
  done
  pg_ctl --wait --mode fast stop
}

if [[ ${1:-} == -* ]]; then
  set -- postgres "$@"
fi

if [[ ${1:-} == postgres ]]; then
  settle POSTGRES_PASSWORD ''
  settle POSTGRES_USER postgres
  settle POSTGRES_DB "$POSTGRES_USER"
  if [[ $(id -u) == 0 ]]; then
    mkdir -p "$PGDATA"
    find "$PGDATA" /var/run/postgresql ! -user postgres -exec chown postgres {} +
    exec gosu postgres "$0" "$@"
  fi
  chmod 0700 "$PGDATA"
  [[ -s $PGDATA/PG_VERSION ]] || initialise
  unset POSTGRES_PASSWORD
fi
exec "$@"
