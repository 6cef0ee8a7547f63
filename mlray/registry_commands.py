"""What the registry's verbs of the command line do, and how their results are shown.

They need a recipe's [platform] table only. Where no cluster is configured the rules run in this process, over the same
database; else they are asked of the cluster's actor.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from mlray import cluster
from mlray.errors import ConfigError
from mlray.platform import Platform
from mlray.registry.client import Registry
from mlray.registry.janitor import LONGEST_GRACE
from mlray.registry.model_version import ModelVersion
from mlray.registry.policy import Policy
from mlray.registry_server.config import Config
from mlray.screen import Screen
from mlray.settings import Settings, read_toml


def run(verb: str, config: Path, as_json: bool, arguments: Mapping[str, Any]) -> int:
    """Does a verb; gives the exit code."""
    return _VERBS[verb](Screen(as_json), registry_of(Settings.load(config)), **arguments)


def registry_of(settings: Settings) -> Registry:
    """The registry of these settings, by the cluster's actor only where a cluster is named."""
    if settings.ray or os.environ.get("RAY_ADDRESS"):
        return Platform(settings).registry
    return Registry.connect(settings.registry, settings.artifacts, embedded=True, token=settings.token)


def serve(config: Path, host: str | None, port: int | None) -> int:
    """Serves the registry over HTTP until the process is told to end."""
    from mlray.registry_server.alone import embedded, serve  # FastAPI takes a second to import

    settings, given = Settings.load(config), {"host": host, "port": port}
    table = read_toml(config).get("registry_server", {}) | {k: v for k, v in given.items() if v is not None}
    where = (settings.registry, settings.artifacts, Config.of(table))
    if settings.ray or os.environ.get("RAY_ADDRESS"):
        from mlray.registry_server.deployment import clustered  # Ray takes a second

        cluster.join(settings.ray)
        serve(clustered(*where))
    else:
        serve(embedded(*where))
    return 0


def versions(screen: Screen, registry: Registry, model: str) -> int:
    screen.show(model, [_shown(registry, version) for version in registry.list(model)])
    return 0


def lineage(screen: Screen, registry: Registry, version: str) -> int:
    known = registry.get(version)
    screen.tree(known.reference, registry.lineage(known))
    return 0


def approve(screen: Screen, registry: Registry, version: str, role: str, stage: str, revoke: bool, why: str) -> int:
    known = registry.get(version)
    if revoke:
        registry.revoke_approval(known, stage=stage, why=why)
    else:
        registry.approve(known, stage=stage, role=role, why=why)
    screen.show("approvals", [_shown(registry, known)])
    return 0


def promote(screen: Screen, registry: Registry, version: str, stage: str, why: str) -> int:
    screen.show("promoted", [_shown(registry, registry.promote(registry.get(version), stage=stage, why=why))])
    return 0


def rollback(screen: Screen, registry: Registry, what: str, why: str) -> int:
    screen.show("rolled back", [_shown(registry, registry.rollback(what, why=why))])
    return 0


def audit(screen: Screen, registry: Registry, model: str | None, check: bool) -> int:
    if check:
        broken = registry.check_audit()
        screen.show("audit", [{"chain": broken or "whole", "rows": sum(1 for _ in registry.each_change())}])
        return 0 if broken is None else 1
    rows = registry.each_change(model)
    screen.show_each("audit", rows if screen.as_json else map(_line, rows))
    return 0


def policy(screen: Screen, registry: Registry, file: Path | None, why: str) -> int:
    now = registry.policy() if file is None else registry.set_policy(Policy.load(file), why=why)
    rows = [
        {"stage": stage, "approvals": ", ".join(rule.approvals), "gates": ", ".join(rule.gates)}
        for stage, rule in now.stages.items()
    ]
    moves = {f"from {stage}": ", ".join(ways) for stage, ways in now.moves.items()}
    more = {"withdraw": ", ".join(now.withdraw), "protected aliases": ", ".join(now.protected_aliases)}
    screen.show(f"policy {now.revision[:12]}", rows, moves | more)
    return 0


def janitor(screen: Screen, registry: Registry, grace: str, dry_run: bool, why: str) -> int:
    with screen.working("looking for what no version names"):
        swept = registry.janitor(grace=_duration(grace), dry_run=dry_run, why=why)
    screen.show("would be removed" if dry_run else "removed", [asdict(swept)])
    return 0


def user_add(screen: Screen, registry: Registry, name: str, roles: list[str]) -> int:
    return _tell(screen, name, registry.users.add(name, roles))


def user_token(screen: Screen, registry: Registry, name: str) -> int:
    return _tell(screen, name, registry.users.renew_token(name))


def user_grant(screen: Screen, registry: Registry, name: str, role: str) -> int:
    registry.users.grant(name, role)
    return user_list(screen, registry)


def user_revoke(screen: Screen, registry: Registry, name: str, role: str) -> int:
    registry.users.revoke(name, role)
    return user_list(screen, registry)


def user_disable(screen: Screen, registry: Registry, name: str) -> int:
    registry.users.disable(name)
    return user_list(screen, registry)


def user_list(screen: Screen, registry: Registry) -> int:
    screen.show("users", [asdict(user) | {"roles": ", ".join(user.roles)} for user in registry.users.list()])
    return 0


_VERBS: Mapping[str, Callable[..., int]] = {
    "versions": versions,
    "lineage": lineage,
    "approve": approve,
    "promote": promote,
    "rollback": rollback,
    "audit": audit,
    "policy": policy,
    "janitor": janitor,
    "user_add": user_add,
    "user_token": user_token,
    "user_grant": user_grant,
    "user_revoke": user_revoke,
    "user_disable": user_disable,
    "user_list": user_list,
}


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DIGITS = 9


def _duration(text: str) -> timedelta:
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _UNITS:
        raise ConfigError(f"--grace {text:.40} is no duration; write a whole number and s, m, h or d, as in 7d")
    given = timedelta(**{_UNITS[unit]: int(number)}) if len(number) <= _DIGITS else timedelta.max
    if given > LONGEST_GRACE:
        raise ConfigError(f"--grace {text:.40} is too long; it is at most {LONGEST_GRACE.days}d")
    return given


def _tell(screen: Screen, name: str, token: str) -> int:
    told = f"is shown this once; pass it in MLRAY_TOKEN; `mlray user token {name}` makes another if it is lost"
    screen.show("user", [{"user": name, "token": token}], {"the token": told})
    return 0


def _shown(registry: Registry, version: ModelVersion) -> dict[str, Any]:
    given = [one for one in registry.approvals(version) if one.void is None]
    return {
        "version": version.reference,
        "stage": version.stage,
        "aliases": ", ".join(version.aliases),
        "author": version.author,
        "created": version.created_at.isoformat(timespec="seconds"),
        "digest": version.digest[:12],
        "approvals": ", ".join(f"{one.stage}: {one.who} as {one.role}" for one in given),
    }


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    changed = [json.dumps(row[side], sort_keys=True) if row[side] else "-" for side in ("before", "after")]
    return {
        "no": row["sequence"],
        "at": row["at"].isoformat(timespec="seconds"),
        "who": row["who"],
        "action": row["action"],
        "model": row["model"],
        "before > after": " > ".join(changed),
        "why": row["why"],
    }
