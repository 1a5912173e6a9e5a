"""What the running audit makes of a run: it must count the tasks that the ledger calls lost, and no other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from drill.tasks import run_of
from holdfast import audit
from holdfast.audit.auditor import Auditor

if TYPE_CHECKING:
    from drill.targets.stack import Stack

AFTER = 60.0  # seconds after its time when a task is looked for: nothing runs any more
EVERY = 7.0  # seconds between two looks; two must agree, and a tenth of AFTER must lie between them
LOOKS = 3  # looks at all tasks of the run
PATIENCE = 300.0  # seconds: the minute of the last task, AFTER, and the workers' next look at their queues


def count(stack: Stack, run: str) -> dict[str, Any]:
    """Wait until the audit has looked at every task of a run, and return what it says.

    Args:
        stack: the stack, whose queues are empty.
        run: the run's id.

    Returns:
        ``share`` of the tasks that is audited; ``unaccounted``, the ids that it counts; ``undecided``, how many may be
        dead letters; ``problem``, why it could not look at all of them, in words.
    """
    began = time.time()
    looks, problem = 0, ""
    with stack.redis(stack.primary(), "admin") as client:
        auditor = Auditor(stack.app, client, AFTER)
        while looks < LOOKS and time.time() - began < PATIENCE:
            verdict = auditor.look()
            problem = f"the queue {auditor.waits_for} may still hold some" if auditor.waits_for else ""
            if not problem and verdict.at > (began // 60 + 1) * 60 + AFTER:
                looks += 1
            time.sleep(EVERY)
    return {
        "share": audit.share(stack.app),
        "unaccounted": sorted({one for one in auditor.unaccounted() if run_of(one) == run}),
        "undecided": verdict.undecided,
        "problem": problem or ("" if looks == LOOKS else f"it looked at all of them {looks} times"),
    }
