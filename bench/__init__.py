"""Ratios of durable to undurable work, measured against the running stack: ``make bench``."""
