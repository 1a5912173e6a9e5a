"""Pages of the admin site: what waits in the outbox, and the dead letters."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

import click
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.management.base import CommandError
from django.http import HttpResponseRedirect
from django.template.defaultfilters import linebreaksbr
from django.template.response import TemplateResponse

from holdfast import dead
from holdfast.django.application import application
from holdfast.django.models import DeadLetter, Outbox
from holdfast.django.rows import DjangoRows
from holdfast.outbox.workflow import Workflow

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse

SHOWN = 100  # letters on the page; `manage.py dead` handles more


class ReadOnly(admin.ModelAdmin):
    """Rows belong to the relay: a person sees them, and acts on them through actions alone."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002 - Django's signature
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and super().has_change_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - Django's signature
        return False  # the stock action would delete rows that a relay is publishing


@admin.register(Outbox)
class OutboxAdmin(ReadOnly):
    """Rows that wait, and parked ones, which can be released or discarded."""

    list_display = ("id", "task", "task_id", "created_at", "not_before", "attempts", "refusals", "parked_at", "error")
    list_filter = (("parked_at", admin.EmptyFieldListFilter), "task")
    search_fields = ("task_id", "task")
    ordering = ("id",)
    show_full_result_count = False
    exclude = ("workflow",)
    readonly_fields = ("messages",)
    actions = ("release", "discard")

    @admin.display(description="messages")
    def messages(self, row: Outbox) -> str:
        """Show what will be published, headers and arguments, not the raw bytes."""
        try:
            found = [message.headers for message in Workflow.loads(row.workflow).messages]
        except (ValueError, TypeError, KeyError) as error:
            return f"cannot be read: {error!r}"
        keep = ("task", "id", "argsrepr", "kwargsrepr", "eta", "expires", "retries")
        return json.dumps([{name: one[name] for name in keep if name in one} for one in found], indent=2)

    @admin.action(description="Release: let the relay try parked rows again", permissions=["change"])
    def release(self, request: HttpRequest, queryset: QuerySet[Outbox]) -> None:
        """Let the relay try the parked ones of the chosen rows again."""
        self._act(request, queryset, DjangoRows.release, "released")

    @admin.action(description="Discard: delete parked rows, their tasks never run", permissions=["change"])
    def discard(self, request: HttpRequest, queryset: QuerySet[Outbox]) -> None:
        """Delete the parked ones of the chosen rows."""
        self._act(request, queryset, DjangoRows.discard, "discarded")

    def _act(
        self,
        request: HttpRequest,
        queryset: QuerySet[Outbox],
        act: Callable[[DjangoRows, list[int]], int],
        done: str,
    ) -> None:
        ids = list(queryset.values_list("pk", flat=True))
        count = act(DjangoRows(queryset.db), ids)
        self.message_user(
            request, f"{count} {done}; {len(ids) - count} were not parked and stay as they are.", messages.SUCCESS
        )


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnly):
    """What lies in the dead-letter queue, with a replay."""

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the letters, or replay the chosen ones.

        Args:
            request: a POST replays.
            extra_context: what else the template gets.

        Raises:
            PermissionDenied: the person may not see, or not change, dead letters.
        """
        may = self.has_change_permission if request.method == "POST" else self.has_view_permission
        if not may(request):
            raise PermissionDenied
        letters: list[dict[str, Any]] | None = None  # unknown: an empty table would say that there are none
        try:
            with dead.open_office(application(), "dead") as office:
                if request.method == "POST":
                    self._replay(request, office)
                    return HttpResponseRedirect(request.get_full_path())
                letters = [letter.summary() for letter in islice(office.letters(), SHOWN)]
        except click.ClickException as error:
            self.message_user(request, linebreaksbr(error.format_message()), messages.ERROR)
        except CommandError as error:
            self.message_user(request, str(error), messages.ERROR)
        context = {
            **self.admin_site.each_context(request),
            "title": "Dead letters",
            "opts": self.opts,
            "letters": letters,
            "can_replay": self.has_change_permission(request),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/holdfast/deadletter/change_list.html", context)

    def _replay(self, request: HttpRequest, office: dead.Office) -> None:
        chosen, done = set(request.POST.getlist("task_id")), 0
        for letter in office.letters() if chosen else ():
            if letter.task_id not in chosen:
                continue
            try:
                office.replay(letter, None)
            except dead.NotReplayedError as error:
                self.message_user(request, f"Not replayed, {letter.task_id} stays: {error}", messages.ERROR)
            else:
                done += 1
        self.message_user(request, f"{done} replayed.", messages.SUCCESS)
