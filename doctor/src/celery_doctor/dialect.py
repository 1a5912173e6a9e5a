"""How an application writes its settings: which names, and in which form."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Union

from celery.app.defaults import NAMESPACES, flatten

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from celery import Celery

# The value of a setting as Python writes it; a dictionary of such is put into what the application has there
Value = Union[str, "dict[str, str]"]

OPTIONS: dict[str, Any] = dict(flatten(NAMESPACES))


def _before_4(namespace: str, key: str, option: Any) -> list[tuple[str, str]]:
    return [(namespace + key, next(iter(option.old), namespace + key).format(key).upper())]


# What each setting was called before Celery 4; Celery gives such a name to the younger ones, too
BEFORE_4: dict[str, str] = dict(flatten(NAMESPACES, keyfilter=_before_4))
SINCE = {  # the release of Celery that first had a setting, for those that 4.4 has not
    "broker_channel_error_retry": "5.3",
    "broker_native_delayed_delivery_queue_type": "5.5",
    "broker_pool_acquire_timeout": "5.7",
    "control_queue_durable": "5.6",
    "control_queue_exclusive": "5.6",
    "task_create_missing_queue_type": "5.6",
    "task_default_queue_type": "5.5",
    "task_retry_on_worker_lost": "5.7",
    "worker_cancel_long_running_tasks_on_connection_loss": "5.1",
    "worker_deduplicate_successful_tasks": "5.1",
    "worker_detect_quorum_queues": "5.5",
    "worker_soft_shutdown_timeout": "5.5",
}
FOREIGN = ("redbeat_",)  # settings of other packages that take the namespace, too


class Dialect:
    """The names of one application's settings: Celery's own, with a namespace, or those of before Celery 4.

    Args:
        app: any Celery application, its settings loaded.
    """

    def __init__(self, app: Celery) -> None:
        self.namespace: str = getattr(app, "namespace", None) or ""
        self._in_code = not getattr(app, "_config_source", None)  # app.conf is filled by statements
        self._conf = app.conf
        self._layers = (app.conf.maps or [])[:-1]  # the last one has Celery's defaults
        keys = {str(key) for layer in self._layers for key in layer.keys()}  # noqa: SIM118 - not each is a dictionary
        old = keys & set(BEFORE_4.values())
        self._keys = keys
        self.old = not self.namespace and len(old) > len(keys & OPTIONS.keys())

    def name(self, setting: str) -> str:
        """Return the application's name of a setting.

        Args:
            setting: in Celery's own form, ``task_acks_late``.
        """
        if self.namespace:
            upper = self.namespace.isupper()
            return f"{self.namespace.rstrip('_')}_{setting.upper() if upper else setting}"
        if self.old:
            return BEFORE_4.get(setting, setting)
        return setting

    def spell(self, text: str) -> str:
        """Put the names of settings in a text into the application's form."""

        def spelt(match: re.Match[str]) -> str:
            name = match.group()
            known = name in OPTIONS or name in SINCE or name.startswith(FOREIGN)
            return self.name(name) if known else name

        return re.sub(r"(?<![\w\"'.])[a-z]+(?:_[a-z]+)+\b(?!\()", spelt, text)

    def has(self, setting: str) -> bool:
        """Return whether the application sets it by itself."""
        if {setting, self.name(setting)} & self._keys:
            return True
        old = BEFORE_4.get(setting, setting)
        return old in self._keys and self._takes(setting, old)

    def without_effect(self) -> Iterator[tuple[str, str]]:
        """Yield each name that looks like Celery's own and is not read, with the one that is read.

        Under a namespace these are the names of before Celery 4, which Celery reads from 5.7 on; without one they are
        those with the usual prefix. A name counts only where the setting has no value under another name.
        """
        read = {self.name(setting) for setting in OPTIONS} | (set() if self.namespace else set(BEFORE_4.values()))
        for setting in OPTIONS:
            name = BEFORE_4[setting] if self.namespace else f"CELERY_{setting.upper()}"
            if name in self._keys - read and not self.has(setting) and not self._takes(setting, name):
                yield name, self.name(setting)

    def _takes(self, setting: str, name: str) -> bool:
        """Whether Celery resolves a setting to the value that a name has."""
        value = next(layer[name] for layer in self._layers if name in layer)
        return bool(getattr(self._conf, setting) == value)

    def block(self, settings: Mapping[str, Value]) -> Iterator[str]:
        """Yield the lines of a block of settings in the application's form.

        Args:
            settings: values by name.
        """
        for setting, value in settings.items():
            missing = too_new(setting)
            name = f"app.conf.{self.name(setting)}" if self._in_code else self.name(setting)
            yield f"{'# ' if missing else ''}{name} = {self._value(setting, name, value)}" + (
                f"  # from Celery {missing} on" if missing else ""
            )

    def _value(self, setting: str, name: str, value: Value) -> str:
        if isinstance(value, str):
            return value
        kept = [f"**{name}"] if self.has(setting) else []
        return "{" + ", ".join(kept + [f'"{key}": {part}' for key, part in value.items()]) + "}"


def too_new(setting: str) -> str:
    """Return the release that brings a setting when the installed Celery has not got it, else an empty text."""
    return SINCE.get(setting, "") if setting not in OPTIONS else ""


def needs(text: str) -> list[str]:
    """Return the settings in a text that the installed Celery has not got, each with the release that brings it."""
    return [f"{name} needs Celery {SINCE[name]}" for name in sorted(SINCE) if name in text and too_new(name)]
