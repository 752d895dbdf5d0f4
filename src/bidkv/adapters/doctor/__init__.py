"""Would the policy really be in charge here? What an operator asks before starting a server."""

from bidkv.adapters.doctor.engines import ENGINES, Engine
from bidkv.adapters.doctor.examine import Report, examine
from bidkv.adapters.doctor.findings import Finding, Status

__all__ = ["ENGINES", "Engine", "Finding", "Report", "Status", "examine"]
