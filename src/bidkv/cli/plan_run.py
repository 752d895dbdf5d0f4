"""One plan of `bidkv plan`: its arguments, and what is done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bidkv.cli.errors import bad_input
from bidkv.cli.outputs import progress_bar

if TYPE_CHECKING:
    from bidkv.evaluation.latency_target import LatencyTarget
    from bidkv.planning import CapacityPlan, Demand, FleetVerification, RateCheck, Sizing
    from bidkv.profiles import StepTimeProfile
    from bidkv.simulator import EngineConfig
    from bidkv.stability import ReplicaShape

    Tests = tuple[list[RateCheck], FleetVerification | None]

PICTURES = (".html", ".svg", ".png")


@contextmanager
def counted_trials() -> Iterator[Callable[[object], None]]:
    """Show on a terminal how many simulations a search has made; yield what is told of each.

    The first one that ever runs in an environment compiles the simulator, which takes half a minute.
    """
    with progress_bar(None, "compile, simulate") as advance:
        numbers = count(1)
        yield lambda _: advance("simulations", next(numbers))


@dataclass(frozen=True, slots=True)
class PlanRun:
    """A plan's arguments."""

    demand: Demand
    engine: EngineConfig
    profile: StepTimeProfile
    target: LatencyTarget
    growth: float
    target_utilization: float | None
    cached_prompt_share: float
    kv_bits: int
    are_hits_measured: bool = False

    @property
    def shape(self) -> ReplicaShape:
        """The replica as the closed form sees it."""
        from bidkv.planning.replica import shape_of

        return shape_of(self.engine)

    def with_prefix_hits(self) -> PlanRun:
        """Return the run with the hits that the trace's own contents give a replica of the planned fleet."""
        from bidkv.planning.prefix_hits import measure_hits

        plan = self.make_plan()
        # Behind a round-robin router a replica gets every so many requests.
        requests = self.demand.requests[:: plan.replicas or 1]
        share = measure_hits(requests, self.shape.memory_tokens, self.engine.prefix_chunk_tokens)
        typer.echo(f"bidkv: {share:.1%} of the prompt tokens are found in the prefix cache", err=True)
        return replace(self, cached_prompt_share=min(share, 0.99), are_hits_measured=True)

    def make_plan(self) -> CapacityPlan:
        """Make the plan in closed form."""
        from bidkv.planning import make_plan

        with bad_input("options"):
            return make_plan(
                self.demand,
                self.shape,
                self.profile,
                target=self.target,
                growth=self.growth,
                target_utilization=self.target_utilization,
                cached_prompt_share=self.cached_prompt_share,
                kv_bits=self.kv_bits,
            )

    def closed(self, users: int, think_s: float) -> PlanRun:
        """Return the run for the rate that so many users make on the replicas that they take."""
        from bidkv.planning.users import rate_of_users

        with bad_input("--users"):
            rate_rps = rate_of_users(
                users, think_s, lambda rate: replace(self, demand=self.at(rate)).make_plan()
            )
        return replace(self, demand=self.at(rate_rps))

    def at(self, rate_rps: float) -> Demand:
        """Return the demand at another rate, as a Poisson process of the same lengths."""
        arrivals = self.demand.arrivals._replace(value=rate_rps, stderr=0.0)
        return replace(self.demand, arrivals=arrivals, windows=None, requests=())

    def is_sized_by_simulation(self, closed_form: bool, *, forced: bool) -> bool:
        """Tell whether fleets are simulated to find the replicas for a target; say why where they are not."""
        if self.target.is_empty or closed_form:
            return False
        why = ""
        if self.cached_prompt_share and not self.are_hits_measured:
            why = "simulated prompts share nothing (--cached-prompt-share)"
        elif find_spec("numba") is None and not forced:
            why = "numba is not installed (pip install 'bidkv[sim]'); --simulate takes minutes without it"
        if why:
            typer.echo(f"bidkv: note: the replicas for the target are the closed form's: {why}", err=True)
        return not why

    def size(self, plan: CapacityPlan, router: str) -> tuple[CapacityPlan, Sizing]:
        """Find the replicas for the target by simulating fleets."""
        from bidkv.planning import size_plan

        with counted_trials() as told:
            return size_plan(
                plan,
                self.demand,
                self.engine,
                self.profile,
                target=self.target,
                kv_bits=self.kv_bits,
                router=router,
                on_trial=told,
            )

    def test(self, plan: CapacityPlan, router: str) -> Tests:
        """Simulate one replica at shares of the planned rate, and the planned fleets."""
        from bidkv.planning import check_rates, verify_fleet

        if find_spec("numba") is None:
            typer.echo(
                "bidkv: --simulate: numba is not installed, so this takes minutes instead of seconds "
                "(pip install 'bidkv[sim]')",
                err=True,
            )
        with counted_trials() as told:
            checks = check_rates(self.demand, plan.service, self.engine, self.profile, on_check=told)
            fleet = verify_fleet(
                plan,
                self.demand,
                self.engine,
                self.profile,
                target=self.target,
                router=router,
                on_trial=told,
            )
        return checks, fleet

    def draw(self, plan: CapacityPlan, file: Path) -> None:
        """Draw one replica from idle to its limit."""
        from bidkv.evaluation.pictures import save_chart
        from bidkv.planning.picture import load_curve, plan_chart

        curve = load_curve(self.demand, self.shape, self.profile, self.cached_prompt_share)
        save_chart(file, plan_chart(plan, curve), PICTURES)
