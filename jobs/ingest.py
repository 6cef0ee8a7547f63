"""Loads the recipe's tables into the lake; what is there already is left as it is: `mlray ingest` as a job.

    python jobs/ingest.py --config configs/flights.toml    (%run jobs/ingest.py ... in a notebook)
    ray job submit --working-dir . -- python jobs/ingest.py --config configs/cluster.toml
"""

import sys

from mlray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "ingest")
    main()
