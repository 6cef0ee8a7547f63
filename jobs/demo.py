"""Every stage in turn, from raw tables to a served prediction: `mlray demo` as a job.

    python jobs/demo.py --config configs/flights.toml    (%run jobs/demo.py ... in a notebook)
    ray job submit --working-dir . -- python jobs/demo.py --config configs/cluster.toml
"""

import sys

from mlray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "demo")
    main()
