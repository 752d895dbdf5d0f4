"""From a model, a GPU and a server's options to a computed profile."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from bidkv.cli.errors import bad_input, fail

if TYPE_CHECKING:
    from bidkv.profiles import StepTimeProfile
    from bidkv.profiles.analytic import ServerMemory


class KvCacheDtype(StrEnum):
    """Values of `--kv-cache-dtype`, as vLLM names them."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FP8 = "fp8"
    FP8_E4M3 = "fp8_e4m3"
    FP8_E5M2 = "fp8_e5m2"


@dataclass(frozen=True)
class MachineOptions:
    """A replica's GPUs and how a server is started on them, under vLLM's names."""

    gpu: Annotated[
        str, typer.Option(metavar="NAME", help="GPU of a computed profile, such as h100, l4 or rtx-4090.")
    ] = "h100-sxm"
    tensor_parallel: Annotated[
        int, typer.Option(metavar="N", help="GPUs that share every layer of the model.")
    ] = 1
    pipeline_parallel: Annotated[
        int, typer.Option(metavar="N", help="Stages of layers, each on GPUs of its own.")
    ] = 1
    kv_cache_dtype: Annotated[KvCacheDtype, typer.Option(help="Type of KV values.")] = KvCacheDtype.AUTO
    gpu_memory_utilization: Annotated[
        float, typer.Option(metavar="F", help="Share of a GPU's memory that the server takes.")
    ] = 0.9
    max_model_len: Annotated[
        int | None,
        typer.Option(metavar="N", help="Longest prompt and output together.  [default: the model's]"),
    ] = None

    def server(self, max_num_seqs: int, max_num_batched_tokens: int) -> ServerMemory:
        """Return how the server is started."""
        from bidkv.profiles.analytic import ServerMemory

        for option, value in (
            ("--max-num-seqs", max_num_seqs),
            ("--max-num-batched-tokens", max_num_batched_tokens),
            ("--max-model-len", self.max_model_len),
        ):
            if value is not None and value < 1:
                fail(f"{option}: expected a whole number above 0, got {value}")
        return ServerMemory(
            gpu_memory_utilization=self.gpu_memory_utilization,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=self.max_model_len,
            kv_cache_dtype=self.kv_cache_dtype.value,
            tensor_parallel=self.tensor_parallel,
            pipeline_parallel=self.pipeline_parallel,
        )

    def make_profile(
        self, option: str, model: str, name: str | None, server: ServerMemory
    ) -> StepTimeProfile:
        """Compute the profile; what cannot be used ends the command with one line that names `option`."""
        from bidkv.profiles.analytic import analytic_profile

        with bad_input(option):
            return analytic_profile(model, self.gpu, name, server=server)

    def refuse_without(self, option: str) -> None:
        """End the command when one of the options is stated although no profile is computed."""
        plain = MachineOptions()
        stated = [
            name
            for name in ("gpu", "tensor_parallel", "pipeline_parallel", "kv_cache_dtype")
            if getattr(self, name) != getattr(plain, name)
        ]
        if self.gpu_memory_utilization != plain.gpu_memory_utilization:
            stated.append("gpu_memory_utilization")
        if stated:
            names = " and ".join(f"--{name.replace('_', '-')}" for name in stated)
            fail(f"{names}: expected together with {option}, since a recorded profile has its own machine")
