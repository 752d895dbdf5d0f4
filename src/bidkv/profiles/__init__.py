"""Step-time profiles: data that says how long an engine's step takes, and the formula that reads it.

A profile is JSON (packaged in ``data/``, or a file of yours); :func:`load_profile` checks it and returns a
:class:`StepTimeProfile`, whose :meth:`~StepTimeProfile.step_s` turns a scheduled batch into seconds.
"""

from bidkv.profiles.errors import ProfileError
from bidkv.profiles.load import DEFAULT_PROFILE, dump_profile, load_profile, profile_names, read_profile
from bidkv.profiles.model import CostLine, Regime, StepTimeProfile

__all__ = [
    "DEFAULT_PROFILE",
    "CostLine",
    "ProfileError",
    "Regime",
    "StepTimeProfile",
    "dump_profile",
    "load_profile",
    "profile_names",
    "read_profile",
]
