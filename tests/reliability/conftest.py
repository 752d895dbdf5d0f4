"""`--hypothesis-profile=nightly`: a hundred times as many examples as in `make test`."""

from hypothesis import settings

settings.register_profile("nightly", max_examples=10_000, deadline=None)
