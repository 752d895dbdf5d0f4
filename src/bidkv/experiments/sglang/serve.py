"""Start the real SGLang server with the policy of BIDKV_STRATEGY; every flag is SGLang's own.

BIDKV_STRATEGY=bidkv python -m bidkv.experiments.sglang.serve --model-path NAME_OR_DIR --port 30000
"""

import sys

from bidkv.adapters.sglang.server import main

if __name__ == "__main__":
    sys.exit(main())
