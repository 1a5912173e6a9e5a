"""Where a stack runs, and what the drill asks of it there."""

from drill.targets.base import Disks, Logins, Node, Process, Target, TargetError

__all__ = ["Disks", "Logins", "Node", "Process", "Target", "TargetError"]
