"""`bidkv top`: a running engine in a terminal, from its /metrics addresses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from bidkv.cli.errors import fail

if TYPE_CHECKING:
    from rich.console import RenderableType

DEFAULT_ADDRESS = "http://127.0.0.1:9400/metrics"


def command(
    addresses: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ADDRESS]...", help=f"/metrics addresses of one server.  [default: {DEFAULT_ADDRESS}]"
        ),
    ] = None,
    interval: Annotated[float, typer.Option(metavar="S", min=0.1, help="Seconds between readings.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Read twice, print, and leave.")] = False,
) -> None:
    """Watch one server: memory and floor, load and stability, preemptions, recompute tax, decision time.

    Give this project's address (BIDKV_METRICS_PORT), the engine's own, or both. Ctrl-C leaves.

    \b
    Examples:
      bidkv top
      bidkv top 127.0.0.1:9400 127.0.0.1:8000
    """
    from rich.live import Live

    from bidkv.cli.outputs import table_console
    from bidkv.observability.samples import Samples, fetch_samples
    from bidkv.observability.view import rows

    urls = [_url(address) for address in addresses or [DEFAULT_ADDRESS]]

    def look() -> Samples:
        try:
            return fetch_samples(urls, time.monotonic())
        except (OSError, ValueError) as error:
            fail(f"{', '.join(urls)}: {getattr(error, 'reason', None) or error}")

    console = table_console()
    before = look()
    try:
        time.sleep(interval)
        now = look()
        if once:
            console.print(_table(rows(now, before), urls))
            return
        with Live(_table(rows(now, before), urls), console=console, auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(interval)
                before, now = now, look()
                live.update(_table(rows(now, before), urls), refresh=True)
    except KeyboardInterrupt:
        return


def _url(address: str) -> str:
    url = address if "://" in address else f"http://{address}"
    return url if "/" in url.partition("://")[2] else f"{url}/metrics"


def _table(lines: list[tuple[str, str, str]], urls: list[str]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, title=" ".join(urls), title_justify="left")
    for name, value, mood in lines:
        table.add_row(name, Text(value, style={"good": "green", "bad": "bold red"}.get(mood, "")))
    return table
