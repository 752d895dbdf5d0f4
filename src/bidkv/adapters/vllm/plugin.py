"""The `vllm.general_plugins` entry point: vLLM calls `register` in each process, perhaps repeatedly."""

from __future__ import annotations

import functools
import logging
import warnings
from typing import Any

from bidkv.adapters.environment import read_strategy_environment
from bidkv.adapters.vllm.versions import SUPPORTED, is_newer, is_supported, read_version

logger = logging.getLogger("bidkv")


def register() -> None:
    """Put the policy of BIDKV_STRATEGY in charge of every scheduler made from now on.

    Does nothing at all while the variable is unset, and nothing but one warning on an older version of vLLM,
    or on one that chooses its scheduler elsewhere. On a newer one each scheduler is tried when it is made:
    see `self_test`.

    Raises:
        PolicySpecError: the strategy does not exist or has a bad option; the message lists what exists.
        ValueError: another of the variables makes no sense.
    """
    if read_strategy_environment() is None:
        return
    version = read_version()
    if not is_supported(version) and not is_newer(version):
        warnings.warn(
            f"bidkv stays off: vLLM {version} is not supported "
            f"(supported: {SUPPORTED[0]} to {SUPPORTED[-1]}, and newer ones whose self-test passes)",
            stacklevel=2,
        )
        return
    try:
        _wrap()
    except (ImportError, AttributeError) as error:
        logger.warning("bidkv: stays off: vLLM %s is not as expected: %s", version, error)


def unregister() -> None:
    """Give vLLM its own choice of scheduler back; schedulers that exist keep running as they are."""
    from vllm.config.scheduler import SchedulerConfig

    while _wrappers:
        wrapper = _wrappers.pop()
        # Where another plug-in wrapped it after us, its work stays and ours is passed through.
        wrapper.in_use = False
        if SchedulerConfig.get_scheduler_cls is wrapper.function:
            SchedulerConfig.get_scheduler_cls = wrapper.original


class _Wrapper:
    """What stands in the place of `SchedulerConfig.get_scheduler_cls`, and whether it is in use."""

    def __init__(self, original: Any) -> None:
        self.original = original
        self.in_use = True

        @functools.wraps(original)
        def get_scheduler_cls(*args: Any, **kwargs: Any) -> Any:
            chosen = original(*args, **kwargs)
            if not self.in_use:
                return chosen
            try:
                from bidkv.adapters.vllm.schedulers import extend_scheduler_class

                return extend_scheduler_class(chosen)
            except Exception as error:
                logger.warning("bidkv: stays off: %r cannot be extended: %s", chosen, error)
                return chosen

        self.function = get_scheduler_cls


_wrappers: list[_Wrapper] = []
"""What is in place. There is more than one where another plug-in hides the first: ours are extended once."""


def _wrap() -> None:
    from vllm.config.scheduler import SchedulerConfig

    ours = {wrapper.function for wrapper in _wrappers}
    current = SchedulerConfig.get_scheduler_cls
    while current is not None:
        if current in ours:
            return
        current = getattr(current, "__wrapped__", None)
    wrapper = _Wrapper(SchedulerConfig.get_scheduler_cls)
    SchedulerConfig.get_scheduler_cls = wrapper.function
    _wrappers.append(wrapper)
