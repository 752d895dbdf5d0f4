"""When KV memory is short, and how short."""

from bidkv.pressure.detector import PressureConfig, PressureDetector

__all__ = ["PressureConfig", "PressureDetector"]
