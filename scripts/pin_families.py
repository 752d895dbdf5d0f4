"""Print families.json: the seeds of tournaments, and a fingerprint of what every family makes of them.

Usage: python scripts/pin_families.py > families.json, then move it to src/bidkv/workloads/ (the program
reads the present file for the seeds). Only a deliberate change of a workload may change a fingerprint.
"""

import json

from bidkv.workloads.families import FAMILIES, fingerprint, read_pins
from bidkv.workloads.session_families import SESSION_FAMILIES, session_fingerprint

if __name__ == "__main__":
    content = dict(read_pins())
    seeds = [seed for split in content["seeds"].values() for seed in split]
    content["fingerprints"] = {
        name: fingerprint([r for seed in seeds for r in family(100, 1.0, seed)])
        for name, family in FAMILIES.items()
    }
    content["session_fingerprints"] = {
        name: session_fingerprint([s for seed in seeds for s in family(50, seed)])
        for name, family in SESSION_FAMILIES.items()
    }
    print(json.dumps(content, indent=2))
