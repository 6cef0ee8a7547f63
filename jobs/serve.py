"""Answers predictions over HTTP until it is stopped: `mlray serve` as a job.

    python jobs/serve.py --config configs/flights.toml    (%run jobs/serve.py ... in a notebook)
    ray job submit --working-dir . -- python jobs/serve.py --config configs/cluster.toml
"""

import sys

from mlray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "serve")
    main()
