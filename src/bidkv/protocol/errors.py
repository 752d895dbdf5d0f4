"""What can go wrong with a bid; one exception a condition."""

from __future__ import annotations


class CompressionBidError(Exception):
    """Base of every bid error.

    Attributes:
        message: the text, also ``str(error)``.
        bid_id: the bid concerned, or None when no single bid is.
    """

    def __init__(self, message: str, *, bid_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.bid_id = bid_id

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}(message={self.message!r}, bid_id={self.bid_id!r})"


class BidExpiredError(CompressionBidError):
    """The bid is no longer live: invalidated, replaced, accepted before, or its request is gone."""


class BidCapacityError(CompressionBidError):
    """The bids cannot free as much as is needed.

    Attributes:
        requested_tokens: KV tokens that were needed.
        available_tokens: KV tokens the acceptable bids would free.
    """

    def __init__(
        self,
        message: str,
        *,
        bid_id: str | None = None,
        requested_tokens: int = 0,
        available_tokens: int = 0,
    ) -> None:
        super().__init__(message, bid_id=bid_id)
        self.requested_tokens = requested_tokens
        self.available_tokens = available_tokens


class BidExecutionError(CompressionBidError):
    """The provider failed to carry out an accepted bid.

    Attributes:
        cause: what the provider raised, or None; also the exception's ``__cause__``.
    """

    def __init__(
        self, message: str, *, bid_id: str | None = None, cause: BaseException | None = None
    ) -> None:
        super().__init__(message, bid_id=bid_id)
        self.cause = cause
        self.__cause__ = cause
