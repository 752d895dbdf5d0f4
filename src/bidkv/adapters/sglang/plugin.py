"""The `sglang.srt.plugins` entry point: SGLang calls `register` once in each of its processes.

SGLang logs and swallows what a plugin raises, and hooks that cannot be applied. So each new scheduler is
checked for every hook, and the test at start runs. When one is not in place, or the test fails, SGLang is
left alone, with a warning and a metric.
"""

from __future__ import annotations

import logging
from typing import Any

from bidkv.adapters.environment import Environment, read_strategy_environment
from bidkv.adapters.sglang.expectations import find_unexpected
from bidkv.adapters.sglang.glue import SglangGlue
from bidkv.adapters.sglang.hooks import Hooks
from bidkv.adapters.sglang.self_test import find_mismatch
from bidkv.adapters.sglang.service import SglangService

logger = logging.getLogger("bidkv")

current: Plugin | None = None
"""What `register` installed in this process; `bidkv doctor` looks here."""


def register() -> None:
    """Put the policy of BIDKV_STRATEGY in charge of the scheduler made in this process.

    Does nothing at all while the variable is unset.

    Raises:
        PolicySpecError: the strategy does not exist or has a bad option; the message lists what exists.
        ValueError: another of the variables makes no sense.
    """
    environment = read_strategy_environment()
    if environment is None:
        return
    global current
    current = Plugin(environment)
    current.install()


class Plugin:
    """The hooks of one process and the service they lead to.

    Attributes:
        hooks: what SGLang calls.
        service: the service of the scheduler made last, or None.
    """

    def __init__(self, environment: Environment) -> None:
        self.hooks = Hooks(self._attach, self._dropped)
        self.service: SglangService | None = None
        self._environment = environment

    def install(self) -> None:
        """Register all hooks; where this version of SGLang is not as they need it, none at all."""
        unexpected = find_unexpected(target.path for target in self.hooks.targets)
        if unexpected:
            logger.warning(
                "bidkv: stays off, SGLang keeps its own rules: this version of SGLang is not as expected: %s",
                "; ".join(unexpected),
            )
            return
        self.hooks.register()

    def _attach(self, scheduler: Any) -> SglangGlue | None:
        missing = self.hooks.missing()
        problem = None if missing else find_mismatch(scheduler, self.hooks)
        try:
            self.service = SglangService(scheduler, self._environment, missing, problem)
        except AttributeError:
            if problem is None:
                raise
            # What an operator would see of it needs what this scheduler lacks.
            logger.warning("bidkv: stays off, SGLang keeps its own rules: %s", problem)
            return None
        return self.service.glue

    def _dropped(self) -> None:
        if self.service is not None:
            self.service.dropped()
