"""Routers by name."""

from __future__ import annotations

from collections.abc import Callable

from bidkv.simulator.fleet.router import Router
from bidkv.simulator.fleet.routers import LeastLoaded, PrefixAware, RoundRobin

_ROUTERS: dict[str, Callable[[], Router]] = {
    router.name: router for router in (RoundRobin, LeastLoaded, PrefixAware)
}


def available_routers() -> tuple[str, ...]:
    """Return the names of all routers."""
    return tuple(_ROUTERS)


def make_router(name: str) -> Router:
    """Return a fresh router.

    Raises:
        ValueError: no router of this name; the message lists what exists.
    """
    if name not in _ROUTERS:
        raise ValueError(f"unknown router {name!r}: expected one of {', '.join(_ROUTERS)}")
    return _ROUTERS[name]()
