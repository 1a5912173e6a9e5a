"""The certificate of an application: what its settings lose in each fault, before and after the doctor's changes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from drill.judge import checker
from drill.report.page import STYLE

if TYPE_CHECKING:
    from pathlib import Path

BAD = {  # counts of a run that are losses, and what is lost
    "lost": "tasks",
    "result_lost": "results",
    "innocent_dead": "tasks dead-lettered",
}


@dataclass(frozen=True)
class Run:
    """How one run ended.

    Attributes:
        acknowledged: tasks.
        lost: those of them that never ran.
        result_lost: tasks that ran and whose result cannot be read.
        verdict: of the drill.
        reasons: for it.
        innocent_dead: tasks that are in the dead-letter queue although nothing was wrong with them.
    """

    acknowledged: int
    lost: int
    result_lost: int
    verdict: str
    reasons: list[str]
    innocent_dead: int = 0

    @classmethod
    def of(cls, report: dict[str, Any]) -> Run:
        """Return what counts of a report."""
        counts = {name: report["counts"][name] for name in ("acknowledged", *BAD)}
        return cls(**counts, verdict=report["verdict"], reasons=report["reasons"])

    @property
    def losses(self) -> int:
        """Tasks and results that are lost, and tasks that did not run; none of a run that proves nothing."""
        return sum(getattr(self, name) for name in BAD) if self.proves else 0

    @property
    def proves(self) -> bool:
        """Whether the run says something: of one that was cut short, what is in no ledger may have run."""
        return self.verdict != checker.INCONCLUSIVE

    def __str__(self) -> str:
        if not self.proves:
            return f"inconclusive: {'; '.join(self.reasons)}"
        found = [f"{getattr(self, name)} {what}" for name, what in BAD.items() if getattr(self, name)]
        return f"{' and '.join(found) or '0'} of {self.acknowledged}"


@dataclass(frozen=True)
class Row:
    """One fault.

    Attributes:
        fault: its name.
        about: what it breaks, in words.
        before: the run with the application's own settings.
        after: the run with the changes.
    """

    fault: str
    about: str
    before: Run
    after: Run


@dataclass(frozen=True)
class Certificate:
    """What was measured of an application.

    Attributes:
        app: as for ``celery -A``.
        celery: its release of Celery; the runs use the drill's.
        rows: one for each fault.
        changes: the lines that make the difference.
        notes: what the runs do not do as the application does.
    """

    app: str
    celery: str
    rows: list[Row]
    changes: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def code(self) -> int:
        """The exit code: 0 nothing is lost, 1 its own settings lose, 2 a run proves nothing or the changes lose."""
        if not all(row.after.proves and not row.after.losses for row in self.rows):
            return checker.EXIT[checker.INCONCLUSIVE]
        if any(row.before.losses for row in self.rows):
            return checker.EXIT[checker.FAIL]
        return checker.EXIT[checker.PASS if all(row.before.proves for row in self.rows) else checker.INCONCLUSIVE]

    @property
    def summary(self) -> str:
        """One sentence: the worst fault, and what the changes make of it."""
        worst = max(self.rows, key=lambda row: row.before.losses / max(1, row.before.acknowledged))
        if not worst.before.losses and not all(row.before.proves for row in self.rows):
            return f"{self.app}: a run of its own settings proves nothing"
        if not worst.before.losses:
            return f"{self.app} lost nothing in {len(self.rows)} {'fault' if len(self.rows) == 1 else 'faults'}"
        proven = all(row.after.proves for row in self.rows)
        after = sum(row.after.losses for row in self.rows) if proven else "a run that proves nothing"
        lines = f"{len(self.changes)} changed line{'' if len(self.changes) == 1 else 's'}"
        return f"{self.app} loses {worst.before} with the fault '{worst.about}'; with {lines} {after}"


def write(certificate: Certificate, folder: Path) -> None:
    """Write ``certificate.html``, ``certificate.json`` and ``certificate.sarif`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = asdict(certificate) | {"summary": certificate.summary, "exit_code": certificate.code}
    (folder / "certificate.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "certificate.sarif").write_text(json.dumps(sarif(certificate), indent=2) + "\n", encoding="utf-8")
    (folder / "certificate.html").write_text(page(certificate), encoding="utf-8")


def sarif(certificate: Certificate) -> dict[str, Any]:
    """Return the losses of the application's own settings as SARIF 2.1.0."""
    changes = "\n".join(certificate.changes)
    results = [
        {
            "ruleId": row.fault,
            "level": "error",
            "message": {"text": f"{row.about}: {row.before} lost. With these lines {row.after.losses}:\n{changes}"},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": certificate.app.partition(":")[0]}}}],
        }
        for row in certificate.rows
        if row.before.losses
    ]
    rules = [{"id": row.fault, "shortDescription": {"text": row.about}} for row in certificate.rows]
    run = {"tool": {"driver": {"name": "drill certify", "rules": rules}}, "results": results}
    return {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}


def page(certificate: Certificate) -> str:
    """Return the certificate as a page that needs no network."""
    word = {0: "pass", 1: "fail", 2: "inconclusive"}[certificate.code]
    rows = "".join(
        f"<tr><td>{escape(row.about)}</td>{_cell(row.before)}{_cell(row.after)}</tr>" for row in certificate.rows
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(certificate.app)}: what it loses</title><style>{STYLE}</style><main>
<h1>{escape(certificate.app)}</h1>
<div class="verdict {word}"><p class="word">{escape(certificate.summary)}.</p></div>
<h2>Lost, by fault</h2>
<table><thead><tr><th>fault</th><th>its own settings</th><th>with the changes</th></tr></thead>
<tbody>{rows}</tbody></table>
<h2>The changes</h2><pre>{escape(chr(10).join(certificate.changes))}</pre>
<p class="soft">The drill's tasks ran under the settings of the application (which has Celery
{escape(certificate.celery)}), with the drill's Celery on the drill's servers. A task is lost when it was acknowledged,
never ran and is in no queue. {escape(" ".join(certificate.notes))}</p>
</main></html>
"""


def _cell(run: Run) -> str:
    mark = "no" if run.losses else "ok" if run.proves else "slow"
    return f'<td class="n {mark}">{escape(str(run))}</td>'
