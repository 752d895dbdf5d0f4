"""The vLLM step engine compiled with numba: for speed, equal to `simulator.vllm.engine` in every result."""

from bidkv.simulator.vllm.compiled.driver import CompiledRun

__all__ = ["CompiledRun"]
