"""The real server on a CPU in whose scheduler everything goes wrong, while requests named for it are there.

The prefix of the live requests' ids names the phase:

- `alone-`: the policy is switched off, SGLang's own rules hold;
- `undisturbed-`, `after-`: `fair` is left alone;
- `disturbed-`: before about every fifth pass something goes wrong; a faulty policy keeps its place until it
  has failed, or for some passes in which memory suffices;
- `terminate-`: in the middle of a decision the server gets a SIGTERM.

Under any other prefix it leaves the server alone, but for the record of retractions that `serve_main` keeps.
Whenever nothing is left to do, the state of pool, controller and log is written to FAULTS_REPORT.
Everything at module level runs again in the spawned processes, where the scheduler lives.
"""

import json
import os
import random
import resource
import signal
import sys
from collections import Counter
from pathlib import Path

import serve_main  # noqa: F401  installs the shims, records retractions

sys.path.insert(0, str(Path(__file__).parents[2]))

from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from tests.faulty_policies import FAULTS

from bidkv.adapters.sglang import plugin
from bidkv.policy import resolve
from bidkv.protocol.policy import Policy

COMMANDS = ("on", "off", "fair", "fast", "lcf", "fair:cap=0", "nonsense", "", "\x00\xff", "x" * 9000)
PHASES = ("alone", "undisturbed", "disturbed", "after", "terminate")
CONTROL_FILE = Path(os.environ["BIDKV_CONTROL_FILE"])
LOG = Path(os.environ["BIDKV_DECISION_LOG"])
LOG_ROOM_BYTES = 5_000
"""How much more the disk of the decision log takes once things go wrong."""
POLICIES = (*sorted(FAULTS), "fair", "fast")  # sound ones too, or nobody would be preempted by choice
DECK = (*(f"policy {name}" for name in POLICIES), *["control file"] * 3, *["kill switch"] * 2)
FAILING = {"raises", "garbage", "sleeps", "raises-on-events"}
"""They fail once somebody is retracted."""
PATIENCE_PASSES = 25
"""So long a failing policy keeps its place: how often memory runs short depends on the machine's speed."""


class Terminated(Policy):
    """During its first answer the server gets a SIGTERM."""

    name = "terminated"
    sent = False

    def select_victim(self, candidates, need_blocks, engine):
        if not Terminated.sent:
            Terminated.sent = True
            os.kill(os.getppid(), signal.SIGTERM)
        return candidates[0]


class Faults:
    """What goes wrong, at random from a seed; counts what it did."""

    def __init__(self) -> None:
        self.random = random.Random(12)
        self._deck: list[str] = []
        self._patience_passes = 0
        self._failures = 0
        self.done: Counter[str] = Counter()
        self.phase = ""
        self.log_bytes = 0
        self.report: dict[str, dict] = {}
        self.reported = True

    def before_pass(self, scheduler, *args, **kwargs) -> None:
        """Called before each of the scheduler's decisions."""
        rids = [req.rid for req in (*scheduler.waiting_queue, *scheduler.running_batch.reqs)]
        phase = rids[-1].partition("-")[0] if rids else ""
        if phase not in PHASES:
            return
        self.reported = False
        service = plugin.current.service
        if phase != self.phase:
            self._begin(phase, service)
        if phase == "disturbed":
            if not service.controller.active:
                service.controller.enable()
            if not self._awaits_failure(service) and self.random.random() < 0.2:
                self._go_wrong(service)

    def before_abort(self, scheduler, abort) -> None:
        """Called before the scheduler drops a request that its client gave up."""
        for what, reqs in (("waiting", scheduler.waiting_queue), ("running", scheduler.running_batch.reqs)):
            if any(req.rid.startswith(abort.rid) for req in reqs):
                self.done[f"abort of a {what} request"] += 1

    def after_idle(self, result, scheduler) -> None:
        """Called when there was nothing to run."""
        if self.reported or not scheduler.is_fully_idle():
            return
        self.reported = True
        service = plugin.current.service
        tree = scheduler.tree_cache
        free = scheduler.token_to_kv_pool_allocator.available_size() + tree.evictable_size()
        self.report[self.phase] = {
            "faults": dict(self.done),
            "counters": service.controller.counters.as_dict(),
            "tokens_lost": scheduler.max_total_num_tokens - free,
            "tokens_locked": tree.protected_size(),
            "views_kept": len(list(service.engine.known())),
            "adapter_in_place": service.glue is not None,
            "metrics_served": bool(service.metrics and service.metrics.serving),
            "log_bytes": [self.log_bytes, LOG.stat().st_size],
            "log_is_whole": LOG.read_bytes().endswith(b"}\n"),
        }
        report = Path(os.environ["FAULTS_REPORT"])
        report.with_suffix(".new").write_text(json.dumps(self.report))
        report.with_suffix(".new").replace(report)

    def _begin(self, phase: str, service) -> None:
        self.phase = phase
        _clear(CONTROL_FILE)
        self.log_bytes = LOG.stat().st_size
        # No file of this process can grow beyond this: the decision log meets a full disk.
        room = self.log_bytes + LOG_ROOM_BYTES if phase == "disturbed" else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        if phase == "alone":
            service.controller.disable()
        else:
            service.controller.switch(Terminated() if phase == "terminate" else resolve("fair"))

    def _go_wrong(self, service) -> None:
        if not self._deck:  # every kind happens, however few passes there are
            self._deck = self.random.sample(DECK, len(DECK))
        fault = self._deck.pop()
        kind, _, name = fault.partition(" ")
        if kind == "policy":
            service.controller.switch(FAULTS[name]() if name in FAULTS else resolve(name))
            self._patience_passes = PATIENCE_PASSES if name in FAILING else 0
            self._failures = service.controller.counters.failures
        elif fault == "control file":
            self._spoil_control_file()
            # The adapter looks a few times a second; here at every fault.
            service._synced._poll.__self__._next_look_s = float("-inf")
        else:
            service.controller.disable()
        self.done[fault] += 1

    def _awaits_failure(self, service) -> bool:
        self._patience_passes -= 1
        return self._patience_passes >= 0 and service.controller.counters.failures == self._failures

    def _spoil_control_file(self) -> None:
        _clear(CONTROL_FILE)
        match self.random.randrange(4):
            case 0:
                CONTROL_FILE.mkdir()
            case 1:
                CONTROL_FILE.symlink_to("/dev/zero")
            case 2:
                os.mkfifo(CONTROL_FILE)
            case 3:
                CONTROL_FILE.write_text(self.random.choice(COMMANDS), encoding="latin-1")
                CONTROL_FILE.chmod(self.random.choice((0o600, 0o666)))


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)


faults = Faults()
_SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"
HookRegistry.register(f"{_SCHEDULER}.get_next_batch_to_run", faults.before_pass, HookType.BEFORE)
HookRegistry.register(f"{_SCHEDULER}.abort_request", faults.before_abort, HookType.BEFORE)
HookRegistry.register(f"{_SCHEDULER}.on_idle", faults.after_idle, HookType.AFTER)

if __name__ == "__main__":
    from bidkv.experiments.sglang.serve import main

    sys.exit(main())
