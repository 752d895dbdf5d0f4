"""The `vllm.general_plugins` entry point: vLLM calls `register` in each process, perhaps repeatedly."""

from __future__ import annotations

import functools
import logging
import warnings
from typing import Any

from bidkv.adapters.environment import read_strategy_environment

logger = logging.getLogger("bidkv")

SUPPORTED = ("0.24", "0.30", "0.31", "0.32", "0.33")
"""Versions of vLLM (major.minor) on which the adapter was proven against the engine itself."""

_ORIGINAL = "_bidkv_original"


def register() -> None:
    """Put the policy of BIDKV_STRATEGY in charge of every scheduler made from now on.

    Does nothing at all while the variable is unset, and nothing but one warning on another version of vLLM.

    Raises:
        PolicySpecError: the strategy does not exist or has a bad option; the message lists what exists.
        ValueError: another of the variables makes no sense.
    """
    if read_strategy_environment() is None:
        return
    from vllm import __version__ as version

    if not is_supported(version):
        warnings.warn(
            f"bidkv stays off: vLLM {version} is not supported (supported: {', '.join(SUPPORTED)})",
            stacklevel=2,
        )
        return
    _wrap()


def unregister() -> None:
    """Give vLLM its own choice of scheduler back; schedulers that exist keep running as they are."""
    from vllm.config.scheduler import SchedulerConfig

    current = SchedulerConfig.get_scheduler_cls
    original = getattr(current, _ORIGINAL, None)
    if original is not None:
        SchedulerConfig.get_scheduler_cls = original


def is_supported(version: str) -> bool:
    """Whether a version of vLLM is one of :data:`SUPPORTED`.

    >>> is_supported("0.32.0"), is_supported("0.24.0+cu130"), is_supported("0.3.2")
    (True, True, False)
    """
    return ".".join(version.split(".")[:2]) in SUPPORTED


def _wrap() -> None:
    from vllm.config.scheduler import SchedulerConfig

    original = SchedulerConfig.get_scheduler_cls
    if hasattr(original, _ORIGINAL):
        return

    @functools.wraps(original)
    def get_scheduler_cls(self: Any) -> Any:
        from bidkv.adapters.vllm.hooks import extend_scheduler_class

        return extend_scheduler_class(original(self))

    setattr(get_scheduler_cls, _ORIGINAL, original)
    SchedulerConfig.get_scheduler_cls = get_scheduler_cls
