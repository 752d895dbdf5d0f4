"""The router protocol, and what a router sees: the arriving request and the replicas at that moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class ArrivingRequest(Protocol):
    """A request at the router; its true output length is not part of it."""

    @property
    def request_id(self) -> str:
        """Unique among live requests."""

    @property
    def arrival_s(self) -> float:
        """Seconds on the one clock."""

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""

    @property
    def max_tokens(self) -> int | None:
        """The sender's cap on generated tokens, or None when unknown."""

    @property
    def priority(self) -> int:
        """Lower is more important."""

    @property
    def weight(self) -> float:
        """Relative worth of finishing it."""

    @property
    def hash_ids(self) -> tuple[int, ...]:
        """Content hashes of the prompt's leading chunks."""

    @property
    def session_id(self) -> str:
        """The session it is a turn of; empty for a single request."""

    @property
    def turn(self) -> int:
        """Number of the turn in its session, from 0."""

    @property
    def content(self) -> tuple[tuple[int, int], ...]:
        """The prompt as segments (content key, tokens), or () where only `hash_ids` tell."""

    @property
    def agent_id(self) -> str:
        """Agent that sent it; empty when unknown."""


class ReplicaView(Protocol):
    """One replica at the moment a request arrives.

    A step in progress shows as it was scheduled: its memory is taken, its tokens have not come out yet.
    """

    @property
    def index(self) -> int:
        """From 0."""

    @property
    def outstanding_requests(self) -> int:
        """Requests sent to it that wait or run."""

    @property
    def waiting_requests(self) -> int:
        """Requests sent to it that have not entered."""

    @property
    def outstanding_prompt_tokens(self) -> int:
        """Prompt tokens of the outstanding requests."""

    @property
    def used_blocks(self) -> int:
        """KV blocks in use."""

    @property
    def num_blocks(self) -> int:
        """Usable KV blocks."""

    def cached_tokens(self, request: ArrivingRequest) -> int:
        """Leading prompt tokens found in its prefix cache; 0 without one. O(blocks of the prompt)."""


class Router(Protocol):
    """Sends each request to a replica; it may keep state between two requests.

    A complete router::

        class Shortest:
            name = "shortest"

            def choose(self, request, replicas):
                return min(replicas, key=lambda replica: replica.outstanding_requests)

    A replica is simulated in long strides and brought up to date only when a router reads it, so a router
    that reads nothing costs nothing.
    """

    @property
    def name(self) -> str:
        """What reports call it."""

    def choose(self, request: ArrivingRequest, replicas: Sequence[ReplicaView]) -> ReplicaView:
        """Return one of `replicas`."""
