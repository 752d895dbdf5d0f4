"""The thinnest glue from a real engine's hook to the controller; importing this imports no engine."""

from bidkv.adapters.base import BaseAdapterMetrics, FrameworkAdapter

__all__ = ["BaseAdapterMetrics", "FrameworkAdapter"]
