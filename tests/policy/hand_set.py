"""What tests of policies do on an engine set by hand: requests arrive, enter and are preempted."""

from __future__ import annotations

from tests.support import FakeEngine, FakeRequest

from bidkv.protocol.policy import Policy


def request(name: str, arrival_s: float = 0.0, prompt: int = 320, **figures: float) -> FakeRequest:
    return FakeRequest(name, arrival_s=arrival_s, num_prompt_tokens=prompt, num_computed_tokens=0, **figures)  # type: ignore[arg-type]


def crowd(policy: Policy, engine: FakeEngine, count: int = 10) -> list[FakeRequest]:
    """Fill the queue so that not all that wait fit: from then on there is a market."""
    members = [request(f"crowd{i}", 0.001 * i) for i in range(count)]
    for member in members:
        arrive(policy, engine, member)
    return members


def arrive(policy: Policy, engine: FakeEngine, *arrivals: FakeRequest) -> None:
    for arrival in arrivals:
        engine.queue.append(arrival)
        policy.on_arrival(arrival, engine)


def admit(policy: Policy, engine: FakeEngine, member: FakeRequest) -> None:
    engine.queue.remove(member)
    engine.running.append(member)
    policy.on_admit(member, engine)


def preempt(policy: Policy, engine: FakeEngine, member: FakeRequest) -> None:
    engine.running.remove(member)
    engine.queue.insert(0, member)
    member.num_preemptions += 1
    policy.on_preempt(member, 16, engine)


def entering(policy: Policy, engine: FakeEngine) -> list[str]:
    """Admit everybody; the names in order."""
    names = []
    while (chosen := policy.select_next(engine)) is not None:
        names.append(chosen.request_id)
        admit(policy, engine, chosen)  # type: ignore[arg-type]
    return names
