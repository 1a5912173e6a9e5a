"""The application of a set-up, made in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

ENVIRONMENT = {
    "HOLDFAST_BROKER_URL": "amqp://app:pw@10.0.0.1:5672/holdfast;amqp://app:pw@10.0.0.2:5672/holdfast",
    "HOLDFAST_RESULT_URL": "sentinel://app:pw@10.0.0.3:26379/0",
    "HOLDFAST_SENTINEL_MASTER": "results",
    "HOLDFAST_SENTINEL_USERNAME": "app",
    "HOLDFAST_SENTINEL_PASSWORD": "pw",
}


def ask_app(variant: str, expression: str, changes: dict[str, str] = ENVIRONMENT) -> Any:
    """Return a value of the application of a set-up, made in a process of its own."""
    code = f"import json; from drill.selftest.variants import app; print(json.dumps({expression}))"
    environment = dict(os.environ) | changes | {"DRILL_VARIANT": variant}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
