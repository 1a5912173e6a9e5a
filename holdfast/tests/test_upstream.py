"""An upgrade that moves what the library uses of the inside of another package fails here, by name."""

from __future__ import annotations

import ast
import inspect
import re
import threading
from importlib import import_module
from importlib.metadata import packages_distributions, version
from pathlib import Path
from pkgutil import walk_packages
from typing import TYPE_CHECKING, Any

import django_project  # noqa: F401 - configures Django, without which its part cannot be imported
import pytest

import holdfast
from holdfast._upstream import ATTRIBUTE, LEDGER, Use

if TYPE_CHECKING:
    from collections.abc import Iterator

UPSTREAM = ("amqp", "billiard", "celery", "kombu", "redbeat", "redis", "vine")
MODULES = sorted(module.name for module in walk_packages(holdfast.__path__, "holdfast."))
KNOWN = {(use.by, name) for use in LEDGER for name in use.names}
PARTS = {  # what may have no private name of another module at all
    "webhooks": "app/src/webhooks",
    "drill": "drill/src/drill",
    "bench": "bench",
}
CHECKOUT = Path(__file__).parents[2]


def holder(use: Use) -> Any:
    """Return the upstream class or module of an entry."""
    module, _, name = use.of.partition(":")
    found = getattr(import_module(module), name) if name else import_module(module)
    return type(threading.RLock()) if found is threading.RLock else found  # which is a function


def shape(holder: Any, name: str) -> str | None:
    """Return the shape of a name as the ledger writes it, None when there is no such name."""
    for one in getattr(holder, "__mro__", (holder,)):
        if name in vars(one):
            return _shape(vars(one)[name])
    classes = [one for one in getattr(holder, "__mro__", ()) if one.__module__ != "builtins"]
    assigned = any(re.search(rf"self\.{name}\b", inspect.getsource(one)) for one in classes)
    return ATTRIBUTE if assigned else None


def _shape(found: Any) -> str:
    if isinstance(found, property) or type(found).__name__ == "cached_property":
        return "property"
    if inspect.isclass(found):
        return "class"
    try:
        parameters = inspect.signature(getattr(found, "__func__", found)).parameters.values()
    except (TypeError, ValueError):  # no function, or one in C
        return ATTRIBUTE
    texts: list[str] = []
    for one in parameters:
        if one.kind is one.KEYWORD_ONLY and not any(text.startswith("*") for text in texts):
            texts.append("*")
        stars = "*" if one.kind is one.VAR_POSITIONAL else "**" if one.kind is one.VAR_KEYWORD else ""
        texts.append(f"{stars}{one.name}{'' if one.default is one.empty else '='}")
    return f"({', '.join(texts)})"


@pytest.mark.parametrize(
    ("use", "name"), [pytest.param(use, name, id=f"{use.of}.{name}") for use in LEDGER for name in use.names]
)
def test_upstream_has_it_as_the_ledger_says(use: Use, name: str) -> None:
    assert shape(holder(use), name) == use.names[name], (
        f"{_installed(use)} has changed {use.of}.{name}, which {use.by} uses: {use.why}. Next: read what replaced it, "
        f"adapt the module, then holdfast/_upstream.py. The entry may go when: {use.until}"
    )


def _installed(use: Use) -> str:
    found = packages_distributions().get(re.split("[.:]", use.of)[0])
    return f"{found[0]} {version(found[0])}" if found else "this Python"


def overrides(module: str) -> Iterator[str]:
    """Yield what the classes of a module override in classes of upstream packages."""
    # the type, because isclass() makes a proxy such as shared_task's look for its application
    ours = [one for one in vars(import_module(module)).values() if issubclass(type(one), type)]
    for one in ours:
        for base in one.__mro__:
            if not base.__module__.startswith("holdfast"):
                continue
            for name, value in vars(base).items():
                data = not (callable(value) or isinstance(value, property) or _shape(value) == "property")
                if data or (name.startswith("__") and name != "__init__"):
                    continue
                if any(_is_upstream(other) and name in vars(other) for other in one.__mro__):
                    yield f"{base.__module__} {name}"


def _is_upstream(one: type) -> bool:
    return one.__module__.partition(".")[0] in UPSTREAM


@pytest.mark.parametrize("module", MODULES)
def test_every_overridden_method_is_in_the_ledger(module: str) -> None:
    assert {one for one in overrides(module) if tuple(one.split()) not in KNOWN} == set()


def foreign_names(path: Path) -> set[str]:
    """Return the private names that a file uses and does not define: attributes, imports, strings for getattr."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined: set[str] = set()
    used: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                defined.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                defined.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                defined.add(name)
            case ast.Attribute(attr=name):
                used.add(name)
            case ast.ImportFrom(names=names):
                used |= {alias.name for alias in names}
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(value=str(name)), *_]
            ):
                used.add(name)
            case ast.Subscript(value=ast.Call(func=ast.Name(id="vars")), slice=ast.Constant(value=str(name))):
                used.add(name)
    private = {name for name in used if re.match(r"_[a-z]", name)}
    # of named tuples and of Django's models: public, in spite of the underscore
    return private - defined - {"_replace", "_asdict", "_fields", "_meta"}


def _path(module: str) -> Path:
    return Path(str(import_module(module).__file__))


@pytest.mark.parametrize("module", MODULES)
def test_every_private_name_of_upstream_is_in_the_ledger(module: str) -> None:
    assert {name for name in foreign_names(_path(module)) if (module, name) not in KNOWN} == set()


@pytest.mark.parametrize("folder", PARTS.values(), ids=PARTS)
def test_no_other_part_uses_a_private_name_that_it_does_not_define(folder: str) -> None:
    found = {str(path): foreign_names(path) for path in sorted((CHECKOUT / folder).rglob("*.py"))}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_ledger_names_nothing_that_nobody_uses() -> None:
    for use in LEDGER:
        text = _path(use.by).read_text(encoding="utf-8")
        unused = [name for name in use.names if not re.search(rf"\b{name}\b", text)]
        assert unused == [], f"{use.by} does not use {unused} of {use.of} any more: take them out of the ledger"
