"""The fault drill: load the running stack, break it on purpose, and count what was lost."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
"""The checkout: the drill runs its scripts and reads its rendered files."""
