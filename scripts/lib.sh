# Shared by the scripts of this folder: sourced, never run.
# shellcheck shell=bash disable=SC2034 # what is unused here is used by the scripts that source it
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# setting NAME DEFAULT: what Compose takes for it: the environment, then the file .env, then the default.
setting() {
  local line
  line=$(grep -s "^$1=" "$root/.env" | tail -n 1 || true)
  line=${line#*=}
  printf '%s\n' "${!1:-${line:-$2}}"
}

project=$(setting COMPOSE_PROJECT_NAME holdfast)
# first three numbers of the addresses; change it when it collides with a network of your own
network=$(setting HOLDFAST_NET 172.30.77)
address=$(setting HOLDFAST_ADDRESS 127.0.0.1) # where the stack's ports are opened
broker=$(setting BROKER rabbitmq)
results=$(setting RESULTS redis) # the server that holds them
test_lab=holdfast-test-lab # the hosts on which make test-all runs the playbooks
PATH=$PATH:$root/build/uv/bin # where scripts/env puts uv on a machine without it
export BUILDX_NO_DEFAULT_ATTESTATIONS=1 # an old engine cannot store what newer buildx adds to an image

# What preflight accepts. The two sizes can be set for small test machines, at the caller's own risk.
min_engine=20.10
min_compose=2.24
min_memory_mib=${HOLDFAST_MIN_MEMORY_MIB:-4096}
min_disk_mib=${HOLDFAST_MIN_DISK_MIB:-10240}

say() { printf '%s\n' "$*"; }

step() { printf '\n== %s\n' "$*"; }

# problem FOUND ALLOWED NEXT: the three things a user needs to know, on stderr.
problem() {
  printf 'found:   %s\nallowed: %s\nnext:    %s\n' "$1" "$2" "$3" >&2
}

die() {
  problem "$@"
  exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# logged NAME COMMAND...: runs a command with its output in build/logs/NAME.log; shows the end of it when it fails.
logged() {
  local log=$root/build/logs/$1.log
  shift
  mkdir -p "${log%/*}"
  "$@" >"$log" 2>&1 || {
    tail -n 30 "$log" >&2
    say "(the end of $log)" >&2
    return 1
  }
}

# beside NAME COMMAND MAIN: runs MAIN, and COMMAND beside it with its output in build/logs/NAME.log, and then shows the end
# of this log. Both run to their end, and either may fail the whole; the last lines then name the tests that failed, because
# the end is what people and CI look at.
beside() {
  local logs=$root/build/logs main_status=0 other_status=0 other
  mkdir -p "$logs"
  logged "$1" "$2" &
  other=$!
  "$3" 2>&1 | tee "$logs/$3.log" || main_status=$?
  say "$3 ended with $main_status; waiting for what runs beside it"
  wait "$other" || other_status=$? # with the end of its log shown
  ((other_status)) || tail -n 30 "$logs/$1.log"
  ((main_status || other_status)) || return 0
  step "Failed: $3 ended with $main_status (build/logs/$3.log), $2 with $other_status (build/logs/$1.log)"
  grep -hE '^(FAILED|ERROR) ' "$logs/$3.log" "$logs/$1.log" || say "no test by name: read the two logs"
  return "$((main_status ? main_status : other_status))"
}

# at_least FOUND NEEDED: compares versions; what follows + - or ~ is a distribution's own number.
at_least() {
  [[ $(printf '%s\n%s\n' "$2" "${1%%[+~-]*}" | sort -V | head -n 1) == "$2" ]]
}

engine_answers() { docker info >/dev/null 2>&1; }

compose() {
  (cd "$root" && docker compose "$@")
}

ca_bundle() {
  local file
  for file in "${HOLDFAST_CA_BUNDLE:-${SSL_CERT_FILE:-}}" /etc/ssl/certs/ca-certificates.crt \
    /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
    if [[ -r $file ]]; then
      say "$file"
      return
    fi
  done
}

stack_is_running() {
  [[ -n $(docker ps --quiet --filter "label=com.docker.compose.project=$project" 2>/dev/null) ]]
}

stack_exists() {
  [[ -n $(docker ps --all --quiet --filter "label=com.docker.compose.project=$project") ]]
}

# other_checkout: the folder of another checkout that has started the stack of this name. One that is gone was moved.
other_checkout() {
  local folder
  while read -r folder; do
    if [[ -e $folder/compose.yaml && ! $folder -ef $root ]]; then
      say "$folder"
      return
    fi
  done < <(docker ps --all --filter "label=com.docker.compose.project=$project" \
    --format '{{.Label "com.docker.compose.project.working_dir"}}' 2>/dev/null | sort -u)
}

# refuse_other_checkout NEXT: for what would stop or replace the containers of another checkout.
refuse_other_checkout() {
  local there
  there=$(other_checkout)
  [[ -z $there ]] || die "a stack '$project' that was started in $there, not in $root" \
    "one checkout for a stack: another one would take its containers and its network away" "$1"
}

# on_the_stack COMMAND...: runs a command on the running stack, which it starts when needed, and leaves the stack as it
# found it: running, stopped with its data, or not there at all.
on_the_stack() {
  local before=nothing status=0
  "$root/scripts/bootstrap" # an engine that stands still does not tell what it holds
  if stack_is_running; then
    before=running
  elif [[ -n $(docker volume ls --quiet --filter "label=com.docker.compose.project=$project") ]]; then
    before=data
  fi
  "$root/scripts/up"
  "$@" || status=$?
  ((status == 0)) || "$root/scripts/logs" --save
  case $before in
    nothing) compose down --volumes --remove-orphans ;;
    data) "$root/scripts/down" ;;
  esac
  return "$status"
}

# Debian or Ubuntu, and allowed to install: then what is missing can be installed instead of asked for.
can_install() {
  [[ $(id -u) == 0 ]] && has apt-get && has dpkg
}

# uplink_mtu: containers that send larger packets than the default route carries hang on downloads.
uplink_mtu() {
  local device
  device=$(awk '$2 == "00000000" { print $1; exit }' /proc/net/route)
  cat "/sys/class/net/$device/mtu" 2>/dev/null || echo 1500
}

# debian_mirror: the mirror this machine already uses.
debian_mirror() {
  local mirror=${HOLDFAST_DEBIAN_MIRROR:-}
  if [[ -z $mirror ]] && has apt-get; then
    # shellcheck disable=SC2016 # apt's own placeholders
    mirror=$(apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
      sed -n 's/^Debian|//p' | head -n 1)
  fi
  [[ -n $mirror ]] || die "no Debian mirror in this machine's package sources" "a mirror of Debian" \
    "set HOLDFAST_DEBIAN_MIRROR to the address of one"
  say "${mirror%/}"
}

ubuntu_mirror() { say "${HOLDFAST_UBUNTU_MIRROR:-http://archive.ubuntu.com/ubuntu}"; }
