"""Random workloads for the model-free scheduler, and how a policy is attached to it."""

import random

from modelfree import ModelFreeScheduler, make_req
from tiny_model import VOCABULARY

from bidkv.adapters.sglang.engine_view import SglangEngineView
from bidkv.adapters.sglang.glue import SglangGlue
from bidkv.control import Controller


def random_requests(rng: random.Random, count: int, *, pool: int, priorities: bool = False) -> list:
    """Requests that put a pool of `pool` tokens under pressure; some share the head of their prompts."""
    longest = pool // 4
    heads = [[rng.randrange(3, VOCABULARY) for _ in range(longest // 2)] for _ in range(3)]
    requests = []
    for number in range(count):
        head = rng.choice(heads)[: rng.choice([0, 0, rng.randrange(1, longest // 2)])]
        tail = [rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(2, longest // 2))]
        cap = rng.randrange(10, pool // 2)
        custom = {"bidkv_deadline_ms": rng.randrange(1, 2000) * 1e3} if rng.random() < 0.7 else None
        req = make_req(
            f"r{number}",
            head + tail,
            cap,
            ignore_eos=rng.random() < 0.3,
            priority=rng.randrange(3) if priorities else None,
            custom=custom,
        )
        req.stop_after = max(2, int(cap * rng.uniform(0.2, 1.0)))
        requests.append(req)
    return requests


def run_with_arrivals(scheduler: ModelFreeScheduler, requests: list, rng: random.Random) -> None:
    """Submit in bursts at random steps, then run until nothing is left."""
    queue = list(requests)
    while queue:
        for _ in range(min(len(queue), rng.choice([0, 0, 1, 2, 5]))):
            scheduler.submit(queue.pop(0))
        scheduler.step()
    scheduler.run()


def attach(hooks, scheduler, policy, **options) -> SglangGlue:
    """Let `policy` (a policy object) schedule `scheduler`; time is counted in steps of 10 ms."""
    engine = SglangEngineView(scheduler, lambda: scheduler.now * 0.01)
    controller = Controller(policy, time_budget_s=None)
    hooks.glue = SglangGlue(scheduler, engine, controller, **options)
    return hooks.glue
