"""Writes files from a role's templates on the controller: ``holdfast.stack.render``.

The module ``template`` starts several processes for each file, because its target may be any host. Here the target is
a folder of the controller, so a file is a lookup and a write.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.loader import lookup_loader

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc] # Ansible has no types
    """What Ansible looks for."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write each of ``files``: a template of the role by name, without its ``.j2``, and where it goes.

        What goes into the folder ``secret`` is for its owner alone.

        Returns:
            The result of the task. It holds no content: a file may hold a password.

        Raises:
            AnsibleActionFail: ``to`` or ``files`` is missing.
            AnsibleError: a template cannot be rendered.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self._task.args
        if set(arguments) != {"to", "files"}:
            raise AnsibleActionFail(
                f"found: {', '.join(arguments)}. allowed: to, a folder, and files: TEMPLATE: PATH of each"
            )
        template = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        for source, path in arguments["files"].items():
            target = Path(arguments["to"]) / path
            text = template.run([f"{source}.j2"], variables=task_vars)[0]
            withheld = 0o077 if path.startswith("secret/") else 0o022
            before = os.umask(withheld)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
                target.chmod((0o755 if text.startswith("#!") else 0o644) & ~withheld)
            finally:
                os.umask(before)
        return result | {"changed": True}
