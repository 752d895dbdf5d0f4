"""The step engine compiled with numba: an extra for speed, equal to `simulator.engine` in every result."""

from bidkv.simulator.vllm.compiled.driver import CompiledRun

__all__ = ["CompiledRun"]
