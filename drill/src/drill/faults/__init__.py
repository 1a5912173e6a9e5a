"""All faults, by name."""

from drill.faults import broker, results, workers
from drill.faults.base import REGISTRY, Plan, Spec, Undo, undo

__all__ = ["REGISTRY", "Plan", "Spec", "Undo", "broker", "results", "undo", "workers"]
