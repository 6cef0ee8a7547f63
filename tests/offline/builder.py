"""A process that builds training sets of the market as it is told, a line of JSON each, and says how far it is."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import market
import pyarrow.feather as feather
import ray

import mlray as ml
from mlray.offline.write import BuildProgress


@dataclass(frozen=True)
class Builder:
    """The process, seen from the one that started it."""

    process: "subprocess.Popen[str]"

    def ask(self, **what: Any) -> None:
        assert self.process.stdin is not None
        print(json.dumps(what), file=self.process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        """The next that it says; first that it is ready."""
        assert self.process.stdout is not None
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        return said

    def outcome(self) -> dict[str, Any]:
        """What it says at last, when it has done what it was asked."""
        while not (said := self.answer()).keys().isdisjoint(("parts", "ready")):
            pass
        return said


SMALL = {"plan.BROADCAST_ROWS": 1_000, "layout.ROWS": market.EVENTS // 8, "spine._FEWEST_ROWS": 500}
"""Constants of `mlray.offline` by which even a small table has several parts."""


@contextmanager
def started(address: str, lake: Path, constants: Mapping[str, int] = SMALL) -> Iterator[Builder]:
    """A process that joins the cluster, and says when it has; it is killed at the end, if it still runs."""
    command = [sys.executable, __file__, address, str(lake), json.dumps(constants)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        yield Builder(process)
        process.kill()


def main(address: str, lake: str, constants: str) -> None:
    for name, value in json.loads(constants).items():
        module, _, constant = name.rpartition(".")
        setattr(import_module(f"mlray.offline.{module}"), constant, value)
    ray.init(address=address, namespace="mlray", log_to_driver=False)
    platform = ml.connect(ml.Settings(lake=lake, online="memory://unused", ray=address))
    say(ready=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            say(**perform(platform, asked))
        except ml.MlrayError as error:
            say(error=type(error).__name__, text=str(error))


def perform(platform: ml.Platform, asked: dict[str, Any]) -> dict[str, Any]:
    service = market.SERVICES[asked.get("service", "market")]
    if "layout" in asked:
        platform.applied_diff(service)
        return {"laid_out": [made.version for made in platform.layout(asked["layout"])]}
    if "online" in asked:
        return {"spaces": ml.connect(ml.Settings(online=asked["online"])).online.spaces()}
    ts = platform.build_training_set(service, asked["spine"], join=asked["join"])
    if "rows" in asked:
        feather.write_feather(ts.to_arrow(), asked["rows"], compression="uncompressed")
        return {"explain": ts.explain()}
    seen: list[BuildProgress] = []

    def progress(now: BuildProgress) -> None:
        seen.append(now)
        say(parts=now.parts, of=now.of, resumed=now.resumed)

    ts.write_delta(asked["path"], progress)
    return {"written": ts.count(), "resumed": seen[-1].resumed if seen else 0}


def say(**what: Any) -> None:
    print(json.dumps(what), file=OUT, flush=True)


if __name__ == "__main__":
    OUT = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray, too, prints
    main(*sys.argv[1:])
