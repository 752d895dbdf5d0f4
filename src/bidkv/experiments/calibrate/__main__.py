"""`python -m bidkv.experiments.calibrate`: fit a profile to a step log, from a shell."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bidkv.experiments.calibrate.fitting import CANDIDATES, CHOSEN, Graphs
from bidkv.experiments.calibrate.report import as_text, calibrate, check, errors_as_text
from bidkv.experiments.calibrate.step_log import read_step_log


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = argparse.ArgumentParser(
        prog="python -m bidkv.experiments.calibrate",
        description="Fit a step-time profile to an engine's step log and report its error.",
    )
    add = arguments.add_argument
    add("--steps", required=True, metavar="FILE", help="step log (CSV) to fit")
    add("--name", required=True, help="name of the profile")
    add("--out", type=Path, metavar="FILE", help="write the profile here")
    add("--notes", default="", help="where the steps come from; goes into the profile")
    add("--model", default=CHOSEN, choices=[model.name for model in CANDIDATES], help="default: %(default)s")
    add(
        "--graph-max-tokens",
        type=int,
        default=512,
        metavar="N",
        help="largest captured CUDA graph (%(default)s)",
    )
    add("--no-prefill-graphs", action="store_true", help="the engine ran steps with prefill without graphs")
    add("--no-compare", action="store_true", help="do not cross-validate the candidate models")
    add("--check", metavar="FILE", help="step log of a run not used for fitting, to measure the profile on")
    add("--check-max-num-seqs", type=int, default=256, metavar="N", help="of that run's engine (%(default)s)")
    add("--check-max-num-batched-tokens", type=int, default=2048, metavar="N", help="the same (%(default)s)")
    add("--json", dest="json_file", metavar="FILE|-", help="write the report as JSON; - is stdout")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = parser().parse_args(argv)
    graphs = Graphs(args.graph_max_tokens, not args.no_prefill_graphs)
    try:
        log = read_step_log(args.steps)
        held_out = read_step_log(args.check) if args.check else None
        result = calibrate(
            log, args.name, graphs=graphs, model=args.model, notes=args.notes, compare=not args.no_compare
        )
    except (OSError, ValueError) as error:
        print(f"calibrate: error: {error}", file=sys.stderr)
        return 2
    text, document = as_text(result, log), result.document()
    if held_out is not None:
        profile = result.profile.for_engine(args.check_max_num_seqs, args.check_max_num_batched_tokens)
        errors = check(profile, held_out)
        text += "\n\n" + "\n".join(errors_as_text(f"Error on {held_out.source}, not fitted", errors))
        document["check"] = [asdict(error) for error in errors]
    if args.out:
        args.out.write_text(result.profile_json(), encoding="utf-8")
    _show(text, document, args.json_file)
    return 0


def _show(text: str, document: dict[str, Any], json_file: str | None) -> None:
    if json_file == "-":
        print(json.dumps(document, indent=2))
        return
    print(text)
    if json_file:
        Path(json_file).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
