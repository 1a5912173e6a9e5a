"""Every variable of ours that a task or a template uses is defined somewhere: a rename leaves no name behind."""

from __future__ import annotations

import re
import runpy

from .commands import ROOT

ROLES = sorted(path.name for path in (ROOT / "ansible/roles").iterdir())
# What a task or a template defines: a key, a result, a variable of Jinja
DEFINED = re.compile(r"^\s*register: (\w+)|^\s*-?\s*([a-z_]\w*):|\{%-?\s*(?:set|for|macro) (\w+)", re.MULTILINE)
USED = re.compile(rf"(?<![\w./'\"-])((?:{'|'.join([*ROLES, 'holdfast'])})_\w+)\b(?!\.(?:py|yml|conf))")
# Words of the servers, and groups that a playbook makes
OTHERS = re.compile(r"rabbitmq_(management|prometheus)|redis_aof_enabled|redis_is_\w*|tls_config|verify_peer")
PLUGIN = runpy.run_path(str(ROOT / "ansible/plugins/filter/inventory.py"))
INPUTS: set[str] = PLUGIN["COMMON"] | {*PLUGIN["PASSWORDS"], *PLUGIN["UNQUOTED"]}


def test_every_variable_is_defined() -> None:
    files = [
        path
        for folder, pattern in (("roles", "**/*.yml"), ("roles", "**/*.j2"), ("playbooks", "**/*.yml"))
        for path in sorted((ROOT / "ansible" / folder).glob(pattern))
        if "meta" not in path.parts
    ]
    text = {path: re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE) for path in files}
    defined = INPUTS | {name for content in text.values() for found in DEFINED.findall(content) for name in found}
    used = {(name, str(path.relative_to(ROOT))) for path, content in text.items() for name in USED.findall(content)}
    assert len(used) > 400, "the pattern finds what it is meant for"
    assert sorted(one for one in used if one[0] not in defined and not OTHERS.fullmatch(one[0])) == []
