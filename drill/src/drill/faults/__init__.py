"""All faults, by name."""

from drill.faults import broker, power, redis, workers
from drill.faults.base import REGISTRY, Plan, Spec, Undo, undo

__all__ = ["REGISTRY", "Plan", "Spec", "Undo", "broker", "power", "redis", "undo", "workers"]
