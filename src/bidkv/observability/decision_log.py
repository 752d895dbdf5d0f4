"""A log of victim decisions: one JSON line for every step in which the policy named victims."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView

logger = logging.getLogger("bidkv")


class DecisionLog:
    """Appends to a file that only its owner can read (request ids may name people).

    A file that cannot be written is reported once; the engine goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._give_up(error)

    def victims(self, policy_name: str, victims: Sequence[RequestView], engine: EngineView) -> None:
        """Log the victims of the coming step, first choice first, before they are preempted."""
        if self._descriptor is None:
            return
        record = {
            "time_s": round(engine.now_s, 6),
            "step": engine.num_steps,
            "policy": policy_name,
            "free_blocks": engine.free_blocks,
            "running": len(engine.running),
            "victims": [
                {
                    "request_id": victim.request_id,
                    "computed_tokens": victim.num_computed_tokens,
                    "output_tokens": victim.num_output_tokens,
                    "held_blocks": victim.num_held_blocks,
                    "preemptions": victim.num_preemptions,
                }
                for victim in victims
            ],
        }
        try:
            os.write(self._descriptor, (json.dumps(record) + "\n").encode())
        except OSError as error:
            self.close()
            self._give_up(error)

    def close(self) -> None:
        """Close the file; later decisions are not logged."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _give_up(self, error: OSError) -> None:
        logger.warning("bidkv: no decision log at %s: %s", self._path, error)
