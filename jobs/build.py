"""Computes the training set; `--out PATH` keeps it as a Delta table: `mlray build` as a job.

    python jobs/build.py --config configs/flights.toml    (%run jobs/build.py ... in a notebook)
    ray job submit --working-dir . -- python jobs/build.py --config configs/cluster.toml
"""

import sys

from mlray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "build")
    main()
