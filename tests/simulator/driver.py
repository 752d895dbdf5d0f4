"""Drives an engine step by step, checks it after each, and keeps the books a second time by brute force."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.support import steady_profile

from bidkv.control import Controller
from bidkv.policy.parts.classes import WithinClasses
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView, WorkloadRequest
from bidkv.simulator import EngineConfig, SimRequest, VllmStepEngine


class WatchedController(Controller):
    """Remembers the victims that it named for the coming step."""

    victims: Sequence[RequestView] = ()
    reserve: int | None = None

    def before_step(self, engine: EngineView) -> Sequence[RequestView]:
        self.victims = super().before_step(engine)
        cap = self.policy.preemption_cap
        for victim in self.victims:
            grown = 32 + victim.num_output_tokens // 16
            assert victim.num_preemptions < (grown if cap is None else cap)
        return self.victims

    def reserve_blocks(self, engine: EngineView) -> int:
        self.reserve = super().reserve_blocks(engine)
        assert 0 <= self.reserve <= engine.num_blocks
        if self.policy.name in ("fair", "fast"):
            assert self.reserve <= 0.15 * engine.num_blocks
        return self.reserve

    def on_admit(self, request: RequestView, engine: EngineView, cached_tokens: int = 0) -> None:
        # Asked right before; the request has its blocks by now.
        if len(engine.running) > 1 and self.reserve is not None:
            assert engine.free_blocks >= self.reserve
        self.reserve = None
        super().on_admit(request, engine, cached_tokens)


@dataclass
class Books:
    """What happened in a run, counted independently of the engine."""

    steps: list[list[tuple[str, int]]] = field(default_factory=list)
    preempted: list[list[str]] = field(default_factory=list)
    named: list[list[str]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)
    aborted: list[str] = field(default_factory=list)
    admissions: int = 0
    scheduled_tokens: int = 0
    recomputed_tokens: int = 0
    tokens_lost: int = 0

    @property
    def preemptions(self) -> int:
        return sum(map(len, self.preempted))


class CheckedRun:
    """One engine over one workload; :meth:`step` asserts every invariant of a step."""

    def __init__(
        self,
        requests: Iterable[WorkloadRequest],
        policy: Policy | WatchedController,
        config: EngineConfig,
        reserve: int = 0,
    ) -> None:
        self.config = config
        if isinstance(policy, WatchedController):
            self.control = policy
        else:
            if config.scheduling_policy == "priority":
                policy = WithinClasses(policy)
            self.control = WatchedController(policy, time_budget_s=None)
        self.engine = VllmStepEngine(config, steady_profile(), self.control)
        self.books = Books()
        self.reserve = reserve
        self.coming = [r for r in requests if r.prompt_tokens < config.model_len]
        self._submitted = 0
        self._computed: dict[str, set[int]] = {}

    def run(self, most_steps: int = 20_000) -> Books:
        """To the end; a run that does not come to one is a failure."""
        while self.coming or not self.engine.idle:
            self.step()
            assert len(self.books.steps) < most_steps, "the run does not end"
        return self.books

    def step(self) -> None:
        """Let requests arrive, run one step, check."""
        engine = self.engine
        if engine.idle:
            engine.wait_until(max(engine.now_s, self.coming[0].arrival_s))
        while self.coming and self.coming[0].arrival_s <= engine.now_s:
            self.submit(self.coming.pop(0))
        self.step_alone()

    def submit(self, source: WorkloadRequest) -> None:
        """One request arrives now."""
        self._submitted += 1
        self.engine.submit(SimRequest(source, self.config.model_len))

    def abort(self, request: SimRequest) -> None:
        """One live request is given up."""
        self.engine.abort(request)
        self.books.aborted.append(request.request_id)
        self._check_memory()
        self._check_requests()

    def step_alone(self) -> None:
        """Run one step with whoever is there, check."""
        engine = self.engine
        before = list(engine.running)
        queue = list(engine.waiting())
        known = {r: r.num_tokens for r in queue}
        lost = {r.request_id: r.num_computed_tokens for r in before}
        now = engine.now_s
        engine.step()
        assert engine.now_s > now
        self._keep_books(lost)
        self._check_memory()
        self._check_requests()
        self._check_budget()
        self._check_order(before, queue)
        self._check_admissions(before, known)

    # --- the second set of books -----------------------------------------------------------------
    def _keep_books(self, lost: dict[str, int]) -> None:
        engine, books = self.engine, self.books
        for request, tokens in engine.scheduled:
            seen = self._computed.setdefault(request.request_id, set())
            end = request.num_computed_tokens
            books.recomputed_tokens += sum(position in seen for position in range(end - tokens, end))
            # What came from the prefix cache is computed too; losing and computing it is recompute.
            seen.update(range(end))
            books.scheduled_tokens += tokens
        books.steps.append([(r.request_id, n) for r, n in engine.scheduled])
        books.preempted.append([r.request_id for r in engine.preempted])
        books.named.append([r.request_id for r in self.control.victims])
        books.tokens_lost += sum(lost[r.request_id] for r in engine.preempted)
        for request in engine.finished:
            books.finished.append(request.request_id)
            books.outputs[request.request_id] = request.num_output_tokens

    # --- invariants ------------------------------------------------------------------------------
    def _check_memory(self) -> None:
        engine, size = self.engine, self.config.block_size
        held = sum(r.num_held_blocks for r in engine.running)
        if self.config.enable_prefix_caching:
            held = len({block for r in engine.running for block in r._blocks})
        assert engine.free_blocks + held == engine.num_blocks == self.config.num_gpu_blocks - 1
        assert engine.free_blocks >= 0
        for request in engine.running:
            assert request.num_held_blocks == -(-request.num_computed_tokens // size)
        for request in engine.waiting():
            assert (request.num_held_blocks, request.num_computed_tokens) == (0, 0)

    def _check_requests(self) -> None:
        engine = self.engine
        live = [r.request_id for r in (*engine.running, *engine.waiting())]
        everyone = live + self.books.finished + self.books.aborted
        assert len(set(everyone)) == len(everyone) == self._submitted
        assert len(engine.running) <= self.config.max_num_seqs
        pending = [r for r in engine.running if r.num_tokens - r.num_computed_tokens > 1]
        assert engine.num_prefilling >= len(pending)

    def _check_budget(self) -> None:
        scheduled = self.engine.scheduled
        assert all(tokens >= 1 for _, tokens in scheduled)
        assert sum(tokens for _, tokens in scheduled) <= self.config.max_num_batched_tokens
        assert len({r.request_id for r, _ in scheduled}) == len(scheduled)

    def _check_order(self, before: list[SimRequest], queue: list[SimRequest]) -> None:
        engine, victims = self.engine, list(self.control.victims)
        arranged = [r for r in before if r not in victims] + victims[::-1]
        gone = {*engine.preempted, *engine.finished}
        stayed = [r for r in arranged if r not in gone]
        assert engine.running[: len(stayed)] == stayed
        if self.config.scheduling_policy == "fcfs":
            # Evicted from the tail of the arranged list, each put at the front of waiting.
            assert engine.preempted == arranged[len(arranged) - len(engine.preempted) :][::-1]
            rest = [r for r in queue if r not in [s for s, _ in engine.scheduled]]
            assert list(engine.waiting()) == engine.preempted[::-1] + rest

    def _check_admissions(self, before: list[SimRequest], known: dict[SimRequest, int]) -> None:
        engine, config, size = self.engine, self.config, self.config.block_size
        admitted = [(r, n) for r, n in engine.scheduled if r not in before]
        self.books.admissions += len(admitted)
        assert all(r in known for r, _ in admitted)
        if engine.preempted:
            assert not admitted
        if config.enable_prefix_caching:
            return
        free = engine.num_blocks - engine.used_blocks_in_step
        others = len([r for r in before if r not in engine.preempted]) + len(admitted)
        for request, tokens in reversed(admitted):
            others -= 1
            kept = max(config.watermark_blocks, self.reserve) if others else 0
            assert free >= kept
            free += -(-tokens // size)
            whole = -(-min(known[request], config.model_len) // size)
            assert not config.reserve_full_isl or whole + kept <= free
