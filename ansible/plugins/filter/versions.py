"""Whether a package has the known fixes: ``'5:8.0.6-3' | has_fixes(fixed, packages)``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def has_fixes(version: str, fixed: list[str], packages: list[str]) -> bool:
    """Compare a version with the lowest ones that have the known fixes.

    Args:
        version: as a package manager shows it: with an epoch, a revision, or neither.
        fixed: the lowest version of each line (the first two numbers). Newer lines than these have the fixes, others
            do not.
        packages: revisions of a distribution that have the fixes although their upstream version does not.

    Returns:
        Whether the fixes are in.
    """
    upstream, _, revision = version.rpartition(":")[2].partition("-")
    found = _numbers(upstream)
    lowest = [_numbers(each) for each in fixed]
    if any(found[:2] == low[:2] and found >= low for low in lowest) or found[:2] > max(lowest)[:2]:
        return True
    patched = [each.partition("-")[::2] for each in packages]
    return any(found == _numbers(base) and _numbers(revision)[:1] >= _numbers(least) for base, least in patched)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"has_fixes": has_fixes}
