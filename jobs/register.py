"""Registers the newest run as the model's next version: `mlray register` as a job.

    python jobs/register.py --config configs/flights.toml    (%run jobs/register.py ... in a notebook)
    ray job submit --working-dir . -- python jobs/register.py --config configs/cluster.toml
"""

import sys

from mlray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "register")
    main()
