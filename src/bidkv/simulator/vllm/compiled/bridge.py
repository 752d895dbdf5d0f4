"""Between the compiled kernel and its policy: what the kernel stops for, how the policy is asked and told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bidkv.control import Controller
from bidkv.protocol.policy import Policy
from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.memory import Kernel
from bidkv.simulator.vllm.compiled.views import KernelRequest, KernelView

# A module's own names are found faster than another module's.
_EVENT_SLOT, _EVENT_LOST, _NEXT_SLOT = at.EVENT_SLOT, at.EVENT_LOST, at.NEXT_SLOT
_UID, _START = at.UID, at.START
_GATE_SHUT, _RESERVE, _DROP_ANSWERED = at.GATE_SHUT, at.RESERVE, at.DROP_ANSWERED

Handler = Callable[[], None]
"""What is called when the kernel stops for one reason."""
Blame = Callable[[BaseException], None]
"""What is called with an error that came out of an event."""


class PolicyBridge:
    """Asks and tells one run's policy; :meth:`listen` makes the handlers of the kernel's stops.

    A policy is called some eight times a request, so every handler is a function with all it needs at hand,
    and calls the policy itself: whatever that raises goes to :meth:`Controller.blame`. Simulated runs have no
    time budget.

    Attributes:
        hears: whether the policy is in charge, as of the last :meth:`listen`.
    """

    def __init__(self, kernel: Kernel, view: KernelView, control: Controller) -> None:
        self._kernel = kernel
        self._view = view
        self._control = control
        self.hears = False
        self._watched = False
        self._hear_finish: Callable[..., None] = control.on_finish
        self._blame: Blame = control.blame

    def listen(self) -> dict[int, Handler]:
        """Tell the kernel what the policy wants to be asked and told; return the handlers of these stops.

        The kernel leaves Python alone otherwise. Call it again when the policy was switched off.
        """
        words, control = self._kernel.words, self._control
        self.hears = control.active
        # Without an observer and session accounts the kernel counts by itself: the controller hears nothing.
        watched = self._watched = control.observer is not None or self._view.sessions is not None
        # A watching controller guards the policy by itself; what comes out of it is no fault of the policy.
        self._blame = _raise if watched else control.blame
        words[at.CHOOSES_VICTIMS] = control.chooses_victims
        words[at.CHOOSES_NEXT] = control.chooses_next
        words[at.KEEPS_RESERVE] = control.keeps_reserve
        words[at.DROPS_IDLE] = control.drops_idle
        handlers: dict[int, Handler] = {
            at.ASK_VICTIMS: self._choose_victims,
            at.ASK_NEXT: self._make_chooser(),
            at.ASK_RESERVE: self._make_reserve(),
        }
        for reason, flag, event, make in _EVENTS:
            overridden = getattr(type(control.policy), event) is not getattr(Policy, event)
            words[flag] = (control.active and overridden) or watched
            hear: Callable[..., None] = getattr(control if watched else control.policy, event)
            handlers[reason] = make(self, hear)
        self._hear_finish = hear  # the last of them
        return handlers

    def hear_abort(self, request: KernelRequest) -> None:
        """Tell that the client of `request` gave it up."""
        try:
            self._hear_finish(request, self._view, completed=False)
        except BaseException as error:  # a policy is foreign code
            self._blame(error)

    # --- the policy's answers --------------------------------------------------------------------
    def _choose_victims(self) -> None:
        words = self._kernel.words
        victims: Any = self._control.before_step(self._view)
        words[_DROP_ANSWERED] = 1
        if victims:
            chosen = [victim._slot for victim in victims]
            self._view.name_victims(chosen)
            before = [request._slot for request in self._view.running]
            order = [slot for slot in before if slot not in chosen]
            order.extend(reversed(chosen))
            if order != before:  # mostly the last one is chosen; writing to an array takes a while
                self._kernel.tables.running[: len(order)] = order

    def _make_chooser(self) -> Handler:
        words, view, control = self._kernel.words, self._view, self._control
        select_next, find = control.policy.select_next, view.find_waiting

        def choose_next() -> None:
            # The kernel remembers answers itself: it asks again only after an event, which the policy may not
            # listen to.
            if control.drops_idle:
                control.drop_idle(view)
                words[_DROP_ANSWERED] = 1
            answer, slot = None, -1
            try:
                answer = select_next(view)
                slot = find(answer)
            except BaseException as error:
                control.blame(error)
            if slot < 0 or not control.chooses_next:  # seldom: it chose none, or is switched off
                chosen: Any = control.check_next(answer, view)
                if chosen is None:
                    words[_GATE_SHUT] = control.chooses_next
                    return
                slot = chosen._slot
            words[_NEXT_SLOT] = slot

        return choose_next

    def _make_reserve(self) -> Handler:
        words, view, control = self._kernel.words, self._view, self._control
        reserve_blocks, check = control.policy.reserve_blocks, control.check_reserve

        def keep_reserve() -> None:
            answer = None
            try:
                answer = reserve_blocks(view)
            except BaseException as error:
                control.blame(error)
            words[_RESERVE] = check(answer, view)

        return keep_reserve

    # --- what the policy is told -----------------------------------------------------------------
    def _make_arrival(self, hear: Callable[..., None]) -> Handler:
        words, view, blame = self._kernel.words, self._view, self._blame
        show = view.request

        def tell_arrival() -> None:
            request = show(words[_EVENT_SLOT])
            try:
                hear(request, view)
            except BaseException as error:
                blame(error)

        return tell_arrival

    def _make_admit(self, hear: Callable[..., None]) -> Handler:
        words, view, rows, blame = self._kernel.words, self._view, self._kernel.rows, self._blame
        views, show, watched = view.views, view.request, self._watched

        def tell_admit() -> None:
            slot = words[_EVENT_SLOT]
            request = views.get(rows[_UID][slot]) or show(slot)
            try:
                if watched:
                    hear(request, view, rows[_START][slot])
                else:
                    hear(request, view)
            except BaseException as error:
                blame(error)

        return tell_admit

    def _make_preempt(self, hear: Callable[..., None]) -> Handler:
        words, view, blame = self._kernel.words, self._view, self._blame
        show = view.request

        def tell_preempt() -> None:
            request = show(words[_EVENT_SLOT])
            try:
                hear(request, words[_EVENT_LOST], view)
            except BaseException as error:
                blame(error)

        return tell_preempt

    def _make_finish(self, hear: Callable[..., None]) -> Handler:
        words, view, rows, blame = self._kernel.words, self._view, self._kernel.rows, self._blame
        views, show = view.views, view.request

        def tell_finish() -> None:
            slot = words[_EVENT_SLOT]
            request = views.get(rows[_UID][slot]) or show(slot)
            try:
                hear(request, view, completed=True)
            except BaseException as error:
                blame(error)

        return tell_finish


def _raise(error: BaseException) -> None:
    raise error


_EVENTS: tuple[tuple[int, int, str, Callable[..., Handler]], ...] = (
    (at.TELL_ARRIVAL, at.HEARS_ARRIVAL, "on_arrival", PolicyBridge._make_arrival),
    (at.TELL_ADMIT, at.HEARS_ADMIT, "on_admit", PolicyBridge._make_admit),
    (at.TELL_PREEMPT, at.HEARS_PREEMPT, "on_preempt", PolicyBridge._make_preempt),
    (at.TELL_FINISH, at.HEARS_FINISH, "on_finish", PolicyBridge._make_finish),
)
"""What the kernel stops to tell: the flag that a listener is there, its method, what makes the handler."""
