"""What `mlray online` does. It needs a recipe's [platform] table only, and Ray only where a cluster is named."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlray import moments
from mlray.platform import Platform
from mlray.registry_commands import registry_of
from mlray.screen import Screen
from mlray.settings import Settings
from mlray.spaces import drop_unread


def run(verb: str, config: Path, as_json: bool, arguments: Mapping[str, Any]) -> int:
    """Does a verb; gives the exit code."""
    return _VERBS[verb](Screen(as_json), Platform(Settings.load(config)), **arguments)


def stats(screen: Screen, platform: Platform) -> int:
    with screen.working("reading the online store"):
        found = platform.online_stats()
    screen.show("online", [asdict(one) for one in found])
    return 0


def gc(screen: Screen, platform: Platform, dry_run: bool) -> int:
    with screen.working("looking for what nobody reads"):
        versions = registry_of(platform.settings).each()
        gone = drop_unread(platform.online, platform.applied, versions, moments.now(), dry_run=dry_run)
    total = {"spaces": len(gone), "cells": sum(one.cells for one in gone), "bytes": sum(one.bytes for one in gone)}
    screen.show("would be dropped" if dry_run else "dropped", [asdict(one) for one in gone], total)
    return 0


_VERBS: Mapping[str, Callable[..., int]] = {"stats": stats, "gc": gc}
