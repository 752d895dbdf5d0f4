"""Lets the `sglang` package be imported on a machine without a GPU; test equipment only.

1. Fake kernels for operators of `torchvision` and `sgl_kernel`, which a CPU build does not have, are skipped.
2. `sgl_kernel`, a GPU package, is replaced by modules whose attributes raise when called.

Call :func:`install` at module level of a main script: SGLang's spawned processes import it again.
"""

import os
import sys
import types

import torch

_ABSENT = ("torchvision::", "sgl_kernel::")


def install() -> None:
    os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
    if "sgl_kernel" in sys.modules:
        return
    _skip_fakes_of_absent_operators()
    for name in ("sgl_kernel", "sgl_kernel.kvcacheio"):
        sys.modules[name] = _Stub(name)
    sys.modules["sgl_kernel"].kvcacheio = sys.modules["sgl_kernel.kvcacheio"]


def _skip_fakes_of_absent_operators() -> None:
    original = torch.library.register_fake

    def register_fake(op, func=None, /, **kwargs):
        if isinstance(op, str) and op.startswith(_ABSENT):
            return (lambda f: f) if func is None else func
        return original(op, func, **kwargs)

    torch.library.register_fake = register_fake


class _Stub(types.ModuleType):
    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(f"{self.__name__}.{name} needs a GPU")

        return missing
