"""Adapters of the real engines: from their hooks to the controller. Importing this imports no engine."""

from bidkv.adapters.base import BaseAdapterMetrics, FrameworkAdapter

__all__ = ["BaseAdapterMetrics", "FrameworkAdapter"]
