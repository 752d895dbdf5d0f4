"""Does every query of the dashboard and every alert expression return data from a running Prometheus?

    python scripts/check_dashboard.py --prometheus http://127.0.0.1:9090 [--engine vllm] [--server server-1]

Prints each expression with its number of series and a sample; exit code 1 when one returns nothing. Panels
about another engine are left out. An alert that does not fire returns nothing by design: of its expression
the part before the comparison is asked.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

DEPLOY = Path(__file__).parents[1] / "deploy"
ENGINES = ("vllm", "sglang")


@dataclass(frozen=True)
class Query:
    """One expression and where it comes from."""

    source: str
    expression: str


@dataclass(frozen=True)
class Answer:
    """What Prometheus said to a query."""

    query: Query
    series: int
    sample: str
    error: str = ""


def dashboard_queries(engine: str, server: str, rate_interval: str) -> Iterator[Query]:
    """Yield every panel's expressions as Grafana would send them."""
    others = [name for name in ENGINES if name != engine]
    dashboard = json.loads((DEPLOY / "grafana/dashboards/bidkv.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", rate_interval).replace("$server", server)
            if not any(other in expression for other in others):
                yield Query(panel["title"], expression)


def alert_queries() -> Iterator[Query]:
    """Yield every rule's expression, a final comparison with a number left out."""
    text = (DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8")
    for kind, name, expression in re.findall(r"- (alert|record): (\S+)\n\s+expr: (.+)", text):
        yield Query(f"{kind} {name}", re.sub(r" (==|>|<) [\d.]+$", "", expression))


def ask(prometheus: str, query: Query) -> Answer:
    """Put one query to Prometheus."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query.expression})}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10) as answer:
            result = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        return Answer(query, 0, "", json.load(error).get("error", str(error)))
    values = [series["value"][1] for series in result]
    return Answer(query, len(values), values[0] if values else "")


def check(prometheus: str, engine: str, server: str = ".*", rate_interval: str = "20s") -> list[Answer]:
    """Ask everything once."""
    queries = [*dashboard_queries(engine, server, rate_interval), *alert_queries()]
    return [ask(prometheus, query) for query in queries]


def main(
    prometheus: Annotated[str, typer.Option(metavar="URL")] = "http://127.0.0.1:9090",
    engine: Annotated[str, typer.Option(metavar="vllm|sglang")] = "vllm",
    server: Annotated[str, typer.Option(metavar="REGEX")] = ".*",
) -> None:
    """Print what every expression of dashboard and alerts returns; exit code 1 where one has no data."""
    if engine not in ENGINES:
        raise typer.BadParameter(f"expected one of {', '.join(ENGINES)}, got {engine!r}")
    answers = check(prometheus, engine, server)
    for answer in answers:
        state = f"{answer.series} series, {answer.sample}" if answer.series else answer.error or "NO DATA"
        print(f"{answer.query.source:34} {state:32} {answer.query.expression}")
    empty = sum(not answer.series for answer in answers)
    print(f"{len(answers) - empty} of {len(answers)} expressions return data")
    if empty:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
