"""The application of the set-up that ``DRILL_VARIANT`` names, for Celery: ``drill.selftest.variants:app``."""

import os

from drill.selftest.application import make
from drill.selftest.registry import find

app = make(find(os.environ.get("DRILL_VARIANT", "control")))
