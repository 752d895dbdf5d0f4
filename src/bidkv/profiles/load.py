"""Read, check and write profiles.

The schema of a profile file (JSON object; unknown fields are errors)::

    {
      "format": "bidkv-step-time-profile/1",
      "name": "h100-llama3.1-8b",
      "kind": "fitted" | "analytic",
      "notes": "where the figures come from",
      "graph_max_tokens": 512,        # largest captured CUDA graph; 0: none
      "prefill_graphs": true,         # false: steps with prefill never run in a graph
      "empty_step_s": 0.0002,         # seconds of a step that schedules nothing
      "regimes": {
        "decode": {"host": LINE, "gpu": LINE},
        "graph":  {"host": LINE, "gpu": LINE},
        "eager":  {"host": LINE, "gpu": LINE}
      },
      "evidence": {...}               # optional and free: how the fit was made and how well it does
    }

LINE is an object of seconds, absent ones are 0: ``base_s``, ``per_token_s``, ``per_decode_s``,
``per_context_token_s``, ``per_attention_s``, ``per_prefill_s``, ``history_s`` (see
:class:`~bidkv.profiles.CostLine`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path

from bidkv.profiles.errors import ProfileError, parse_json, quoted
from bidkv.profiles.model import CostLine, Regime, StepTimeProfile

FORMAT = "bidkv-step-time-profile/1"
DEFAULT_PROFILE = "h100-llama3.1-8b"
"""The packaged profile used unless another is named: the one fitted to recorded H100 steps."""
_LARGEST_GRAPH_TOKENS = 1_000_000
"""Of a captured graph; every size up to the largest one is tabulated."""

_REQUIRED = ("format", "name", "kind", "graph_max_tokens", "prefill_graphs", "empty_step_s", "regimes")
_OPTIONAL = ("notes", "evidence", "num_gpu_blocks")
_MOST_S = 1e9
_MOST_BLOCKS = 10**8
_REGIMES = ("decode", "graph", "eager")
_COEFFICIENTS = tuple(f.name for f in fields(CostLine))


def profile_names() -> list[str]:
    """Names of the packaged profiles, sorted."""
    entries = resources.files("bidkv.profiles").joinpath("data").iterdir()
    return sorted(entry.name[: -len(".json")] for entry in entries if entry.name.endswith(".json"))


def load_profile(name_or_path: str | os.PathLike[str]) -> StepTimeProfile:
    """Load a packaged profile by name, or any profile by path (what ends in ``.json`` or holds a separator).

    Raises:
        ProfileError: no such profile (lists what exists), or a file that breaks the schema (names the field).
    """
    text = os.fspath(name_or_path)
    if text.endswith(".json") or os.sep in text:
        try:
            content = Path(text).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ProfileError(f"profile {text}: cannot be read ({error})") from error
        return read_profile(content, where=text)
    names = profile_names()
    if text not in names:
        raise ProfileError(
            f"unknown profile {text!r}: expected one of {', '.join(names)}, or the path of a .json file"
        )
    packaged = resources.files("bidkv.profiles").joinpath("data", f"{text}.json")
    return read_profile(packaged.read_text(encoding="utf-8"), where=f"packaged profile {text}")


def read_profile(content: str, where: str) -> StepTimeProfile:
    """Check the JSON `content` of a profile and build it; `where` names the file in messages.

    Raises:
        ProfileError: the content breaks the schema.
    """
    document = _mapping(parse_json(content, where), where, "(top level)", _REQUIRED, _OPTIONAL)
    if document["format"] != FORMAT:
        raise ProfileError(f"{where}: field format: expected {FORMAT!r}, got {quoted(document['format'])}")
    kind = _text(document, where, "kind")
    if kind not in ("fitted", "analytic"):
        raise ProfileError(f"{where}: field kind: expected 'fitted' or 'analytic', got {quoted(kind)}")
    graph_max_tokens = document["graph_max_tokens"]
    if isinstance(graph_max_tokens, bool) or not isinstance(graph_max_tokens, int) or graph_max_tokens < 0:
        raise ProfileError(
            f"{where}: field graph_max_tokens: expected a whole number >= 0, got {quoted(graph_max_tokens)}"
        )
    if graph_max_tokens > _LARGEST_GRAPH_TOKENS:
        raise ProfileError(
            f"{where}: field graph_max_tokens: expected at most {_LARGEST_GRAPH_TOKENS:,} tokens, "
            f"got {quoted(graph_max_tokens)}"
        )
    prefill_graphs = document["prefill_graphs"]
    if not isinstance(prefill_graphs, bool):
        raise ProfileError(
            f"{where}: field prefill_graphs: expected true or false, got {quoted(prefill_graphs)}"
        )
    regimes = _mapping(document["regimes"], where, "regimes", _REGIMES)
    decode, graph, eager = (_regime(regimes[name], where, f"regimes.{name}") for name in _REGIMES)
    return StepTimeProfile(
        name=_text(document, where, "name"),
        kind=kind,
        decode=decode,
        graph=graph,
        eager=eager,
        empty_step_s=_seconds(document["empty_step_s"], where, "empty_step_s", minimum=0.0),
        graph_max_tokens=graph_max_tokens,
        prefill_graphs=prefill_graphs,
        notes=_text(document, where, "notes") if "notes" in document else "",
        num_gpu_blocks=_blocks(document, where) if "num_gpu_blocks" in document else None,
    )


def dump_profile(profile: StepTimeProfile, evidence: Mapping[str, object] | None = None) -> str:
    """The JSON of `profile`, as :func:`read_profile` takes it; `evidence` says how it was made."""
    document: dict[str, object] = {
        "format": FORMAT,
        "name": profile.name,
        "kind": profile.kind,
        "notes": profile.notes,
        **({} if profile.num_gpu_blocks is None else {"num_gpu_blocks": profile.num_gpu_blocks}),
        "graph_max_tokens": profile.graph_max_tokens,
        "prefill_graphs": profile.prefill_graphs,
        "empty_step_s": profile.empty_step_s,
        "regimes": {
            name: {part: _coefficients(getattr(regime, part)) for part in ("host", "gpu")}
            for name, regime in zip(_REGIMES, (profile.decode, profile.graph, profile.eager), strict=True)
        },
    }
    if evidence is not None:
        document["evidence"] = evidence
    return json.dumps(document, indent=2) + "\n"


def _coefficients(line: CostLine) -> dict[str, float]:
    return {name: value for name, value in zip(_COEFFICIENTS, line.as_tuple(), strict=True) if value}


def _regime(raw: object, where: str, field: str) -> Regime:
    lines = _mapping(raw, where, field, ("host", "gpu"))
    host, gpu = (_line(lines[part], where, f"{field}.{part}") for part in ("host", "gpu"))
    if max(host.base_s, gpu.base_s) <= 0.0:
        raise ProfileError(f"{where}: field {field}: expected base_s > 0 for host or gpu (a step takes time)")
    return Regime(host=host, gpu=gpu)


def _line(raw: object, where: str, field: str) -> CostLine:
    values = _mapping(raw, where, field, (), _COEFFICIENTS)
    return CostLine(
        **{name: _seconds(value, where, f"{field}.{name}", minimum=0.0) for name, value in values.items()}
    )


def _mapping(
    raw: object, where: str, field: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Mapping[str, object]:
    if not isinstance(raw, dict):
        raise ProfileError(f"{where}: field {field}: expected an object, got {type(raw).__name__}")
    missing = [name for name in required if name not in raw]
    if missing:
        raise ProfileError(f"{where}: field {field}: expected also {', '.join(missing)}")
    unknown = sorted(set(raw) - set(required) - set(optional))
    if unknown:
        allowed = ", ".join(required + optional)
        raise ProfileError(
            f"{where}: field {field}: unknown {', '.join(unknown)[:80]}; expected only {allowed}"
        )
    return raw


def _text(document: Mapping[str, object], where: str, field: str) -> str:
    value = document[field]
    if not isinstance(value, str):
        raise ProfileError(f"{where}: field {field}: expected text, got {quoted(value)}")
    return value


def _blocks(document: Mapping[str, object], where: str) -> int:
    value = document["num_gpu_blocks"]
    if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= _MOST_BLOCKS:
        raise ProfileError(
            f"{where}: field num_gpu_blocks: expected a whole number from 2 to {_MOST_BLOCKS:,}, "
            f"got {quoted(value)}"
        )
    return value


def _seconds(value: object, where: str, field: str, minimum: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _MOST_S:
        raise ProfileError(
            f"{where}: field {field}: expected a number of seconds up to {_MOST_S:g}, got {quoted(value)}"
        )
    if value < minimum:
        raise ProfileError(f"{where}: field {field}: expected at least {minimum:g} s, got {quoted(value)}")
    return float(value)
