"""Loads the online store from the lake: `mlray materialize` as a job.

    python jobs/materialize.py --config configs/flights.toml    (%run jobs/materialize.py ... in a notebook)
    ray job submit --working-dir . -- python jobs/materialize.py --config configs/cluster.toml
"""

import sys

from mlray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "materialize")
    main()
