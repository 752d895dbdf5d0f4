"""Says before a server is started whether the policy would be in charge of it."""

from bidkv.adapters.doctor.engines import ENGINES, Engine
from bidkv.adapters.doctor.examine import Report, examine
from bidkv.adapters.doctor.findings import Finding, Status

__all__ = ["ENGINES", "Engine", "Finding", "Report", "Status", "examine"]
