# Shared by the scripts that run Ansible: sourced after lib.sh, never run.
# shellcheck shell=bash disable=SC2154 # lib.sh sets what is used here

# use_inventory PATH: sets inventory and inventory_dir, opens the vault, refuses an inventory that gives secrets away.
# The vault opens with ANSIBLE_VAULT_PASSWORD_FILE, else with the file .vault-password beside the hosts.
use_inventory() {
  [[ -e $1 ]] || die "no $1" "an inventory like ansible/inventories/example, or a hosts file" "set INVENTORY to yours"
  inventory=$(realpath "$1")
  inventory_dir=$inventory
  [[ -d $inventory ]] || inventory_dir=${inventory%/*}
  [[ -x $root/.venv/bin/ansible-playbook ]] || "$root/scripts/env"
  export PATH=$root/.venv/bin:$PATH ANSIBLE_CONFIG=${ANSIBLE_CONFIG:-$root/ansible/ansible.cfg}
  if [[ -z ${ANSIBLE_VAULT_PASSWORD_FILE:-} && -e $inventory_dir/.vault-password ]]; then
    export ANSIBLE_VAULT_PASSWORD_FILE=$inventory_dir/.vault-password
  fi
  refuse_tracked_secrets
}

# What git has in its index goes to everybody who gets the repository.
refuse_tracked_secrets() {
  local tracked vault=group_vars/all/vault.yml
  has git || return 0
  tracked=$(git -C "$inventory_dir" ls-files -- .vault-password backups .clients verify.json '*.key' '*.rdb' 2>/dev/null || true)
  if [[ -e $inventory_dir/$vault ]] && ! head -n 1 "$inventory_dir/$vault" | grep -qF ANSIBLE_VAULT; then
    tracked+=$(git -C "$inventory_dir" ls-files -- "$vault" 2>/dev/null || true)
  fi
  [[ -z $tracked ]] ||
    die "git tracks what only this controller may have: ${tracked//$'\n'/, } in $inventory_dir" \
      "what .gitignore of ansible/inventories/example leaves; a vault.yml that is encrypted" \
      "git rm --cached each of them (the file itself stays); rotate the secrets if others have got them"
}
