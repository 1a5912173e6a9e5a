"""Every query of every dashboard, asked of the live Prometheus under load: it answers with data."""

from __future__ import annotations

import json
import re
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from monitoring.dashboards import build

from .stack import ROOT, password, prometheus, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .browser import Browser
    from .hook import Hook
    from .stack import Stack

pytestmark = pytest.mark.stack
DASHBOARDS = sorted(Path(ROOT / "monitoring/dashboards").glob("*.json"))


class Query(NamedTuple):
    """A panel's query with the reason, if there is one, why it may be empty."""

    where: str
    expr: str
    excuse: str | None


def queries() -> Iterator[Query]:
    """Yield the queries of the committed JSON, with the excuses of their sources."""
    for path in DASHBOARDS:
        source = build.sources()[path.stem]
        excuses = {
            query["expr"]: panel.get("empty")
            for row in source["rows"]
            for panel in row["panels"]
            for query in build.queries(panel)
        }
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", []):
                expr = target["expr"]
                yield Query(f"{path.stem}: {panel['title']}", expr, excuses[expr])


def ask(path: str, **parameters: str) -> Any:
    """Return the data that the API of Prometheus answers with; an error of the query is raised."""
    return prometheus(f"{path}?{urllib.parse.urlencode(parameters)}")["data"]


def chosen(expr: str) -> str:
    """Return a query as Grafana sends it with all values of all variables chosen."""
    return re.sub(r"\$\w+", ".*", expr.replace("$__rate_interval", "1m"))


def values(expr: str) -> list[float]:
    """Return the numbers a query gives now, without those that are none (0/0)."""
    found = [float(series["value"][1]) for series in ask("query", query=chosen(expr))["result"]]
    return [value for value in found if value == value]  # noqa: PLR0124 - NaN differs from itself


def test_every_query_of_every_panel_returns_data_under_load(hook: Hook) -> None:
    asked = list(queries())
    assert len(asked) > 60
    # what is made up by `or vector()` proves nothing
    asked = [query._replace(expr=query.expr.replace(" or vector(0)", "")) for query in asked]

    def all_answer() -> bool:
        hook.answers(fail_next=2)  # so there are retries, each time: a rate of a minute ago is none
        hook.send_many(20)
        if empty := [query for query in asked if not query.excuse and not values(query.expr)]:
            raise ValueError(f"no data for {empty}")
        return True

    wait_until(all_answer, "every query returns data", 240)
    for query in asked:
        values(query.expr)  # an excuse does not cover an error


def test_every_variable_offers_something(stack: Stack) -> None:  # noqa: ARG001 - the stack must be there
    for path in DASHBOARDS:
        for variable in json.loads(path.read_text(encoding="utf-8"))["templating"]["list"]:
            if variable["type"] == "datasource":
                continue
            query = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert query, variable
            selector, label = query.groups()
            offered = ask(f"label/{label}/values", **{"match[]": chosen(selector)})
            assert offered, f"{path.stem}: {variable['name']}"


def test_every_annotation_is_a_query(stack: Stack) -> None:  # noqa: ARG001 - as above
    for expr, _, _ in build.ANNOTATIONS.values():
        values(expr)


def test_the_status_page_has_an_answer_to_everything(browser: Browser) -> None:
    address = f"http://admin:{password('PROMETHEUS_PASSWORD')}@127.0.0.1:9090/user/status/index.html"
    words = ("dead letters", "last tick of beat", "Redis primaries", "holdfast default", "Alerts")

    def answered() -> bool:
        page = browser.page(address).partition("<script>")[0]  # which has most of the words itself
        if not all(word in page for word in words) or "no data" in page or "No answer" in page:
            raise ValueError(page)
        return True

    wait_until(answered, "the page has an answer to everything", 240)
