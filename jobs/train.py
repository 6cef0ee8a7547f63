"""Builds the training set and trains on it; the run is kept for `register`: `mlray train` as a job.

    python jobs/train.py --config configs/flights.toml    (%run jobs/train.py ... in a notebook)
    ray job submit --working-dir . -- python jobs/train.py --config configs/cluster.toml
"""

import sys

from mlray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
