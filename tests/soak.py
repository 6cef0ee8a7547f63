"""How often the random and the killing tests try: some times in `make test`, very often in `make soak`."""

import os

SOAKING = "MLRAY_SOAK" in os.environ


def rounds(test: int, soak: int) -> int:
    """`test` in the test suite, `soak` under `make soak`."""
    return soak if SOAKING else test
