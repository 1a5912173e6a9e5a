"""Where a stack runs, and what the drill asks of it there."""

from drill.targets.base import Logins, Node, Process, Target, TargetError

__all__ = ["Logins", "Node", "Process", "Target", "TargetError"]
