"""Connects to Ray: to the configured or found cluster, else to the cores of this machine."""

import signal
import threading
from typing import Any

from ropewalk.core.error import UserError, explain_import_fault


def start_ray(where: str, *, instead: str) -> Any:
    """The module ``ray``, connected. Raises UserError with the key ``where`` and what to do ``instead`` without it."""
    try:
        import ray
    except ImportError as fault:
        raise UserError(
            "Ray is not installed",
            where=where,
            why=explain_import_fault(fault, "ray"),
            fix=f"pip install 'ropewalk[cluster]', or {instead}",
        ) from None
    if not ray.is_initialized():
        mine = signal.getsignal(signal.SIGTERM)
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, mine)  # undo Ray's own handler: this process is not Ray's
    return ray
