"""Checks the law on the recipe's rows; fails where a cell differs: `mlray verify` as a job.

    python jobs/verify.py --config configs/flights.toml    (%run jobs/verify.py ... in a notebook)
    ray job submit --working-dir . -- python jobs/verify.py --config configs/cluster.toml
"""

import sys

from mlray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "verify")
    main()
