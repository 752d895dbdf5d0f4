"""`bidkv doctor`: would the policy really be in charge of the engines installed here?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from bidkv.cli.options import EngineName, PrintJson
from bidkv.cli.outputs import write_json

if TYPE_CHECKING:
    from bidkv.adapters.doctor import Report

NOT_READY = 1
"""Exit code where no policy would be in charge, or something is in the way."""


def command(
    strategy: Annotated[
        str | None, typer.Option(metavar="NAME", help="Examine this policy instead of BIDKV_STRATEGY.")
    ] = None,
    engine: Annotated[
        EngineName | None, typer.Option(help="Only this engine.  [default: all that are installed]")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not import the engines; their hooks are then not tried.")
    ] = False,
    as_json: PrintJson = False,
) -> None:
    """Tell whether the policy of BIDKV_STRATEGY would be in charge here, and if not, why.

    doctor examines the engines and their versions, the plug-in's entry point, the hook itself (each engine is
    imported in its own process), the policy, the metrics port, the control file and the decision log. Exit
    code 0: a policy would be in charge. Exit code 1: no policy would be, or something else would not work.

    \b
    Examples:
      BIDKV_STRATEGY=fair BIDKV_METRICS_PORT=9400 bidkv doctor
      bidkv doctor --strategy fair --engine vllm && vllm serve ...
    """
    from bidkv.adapters.doctor import examine

    report = examine(
        os.environ,
        strategy=strategy,
        engine=None if engine is None else engine.value,
        try_hooks=not quick,
    )
    if not write_json(report.as_dict(), "-" if as_json else None):
        _print(report)
    if not report.ready:
        raise typer.Exit(NOT_READY)


def _print(report: Report) -> None:
    from rich.markup import escape
    from rich.table import Table

    from bidkv.cli.outputs import table_console

    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "fail": "[red]FAIL[/]"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in report.findings:
        table.add_row(marks[finding.status.value], escape(finding.subject), escape(finding.text))
    console = table_console()
    console.print(table)
    verdict = "; ".join(report.active) or "no policy"
    if report.active and not report.ready:
        verdict += f"; but {' and '.join(report.failed)} would not work as asked for"
    console.print(f"\nWould be active: {verdict}", markup=False)
