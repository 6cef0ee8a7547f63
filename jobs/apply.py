"""Puts the recipe's feature service in force: `mlray apply` as a job.

    python jobs/apply.py --config configs/flights.toml    (%run jobs/apply.py ... in a notebook)
    ray job submit --working-dir . -- python jobs/apply.py --config configs/cluster.toml
"""

import sys

from mlray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "apply")
    main()
