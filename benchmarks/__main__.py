"""All benchmarks, one process after the other; exit code 1 where one of them found a wrong result."""

import subprocess
import sys

THEMES = ("as_of", "windows", "taxi", "scaling", "ingest", "online", "training")


def main() -> int:
    """Passes its arguments on."""
    codes = [subprocess.run([sys.executable, "-m", f"benchmarks.{t}", *sys.argv[1:]]).returncode for t in THEMES]
    return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())
