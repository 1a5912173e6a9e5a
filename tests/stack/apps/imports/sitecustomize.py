"""Notes in the file ``SCRATCH_IMPORTS`` what threads import; Python runs this at the start of a process."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

_file = os.open(os.environ["SCRATCH_IMPORTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "import" and threading.current_thread() is not threading.main_thread():
        os.write(_file, f"{os.getpid()} {threading.current_thread().name}: {arguments[0]}\n".encode())


sys.addaudithook(_note)
