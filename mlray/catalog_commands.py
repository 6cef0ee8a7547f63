"""What find, describe, impact, drop, card and reproduce do. They need a recipe's [platform] table only; `reproduce`
needs Ray besides.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlray.discovery import Inventory
from mlray.discovery import describe as described
from mlray.discovery import drop as dropped
from mlray.discovery import find as found
from mlray.discovery import impact as fed
from mlray.discovery.inventory import Kind
from mlray.platform import Platform
from mlray.registry_commands import registry_of
from mlray.reproduce import Reproduction
from mlray.screen import Screen
from mlray.settings import Settings

if TYPE_CHECKING:
    from mlray.retrain import Retrained


def run(verb: str, config: Path, as_json: bool, arguments: Mapping[str, Any]) -> int:
    """Does a verb; gives the exit code."""
    return _VERBS[verb](Screen(as_json), Platform(Settings.load(config)), **arguments)


def find(screen: Screen, platform: Platform, text: str) -> int:
    rows = [asdict(one) for one in found(_inventory(platform), text)]
    screen.show(f"found for '{text}'" if rows else f"nothing has '{text}' in its name", rows)
    return 0


def describe(screen: Screen, platform: Platform, name: str, kind: Kind | None) -> int:
    screen.tree(name, described(platform.applied, _inventory(platform), platform.settings.lake, name, kind))
    return 0


def impact(screen: Screen, platform: Platform, name: str, kind: Kind | None) -> int:
    screen.show(f"{name} feeds", [asdict(one) for one in fed(_inventory(platform), name, kind)])
    return 0


def drop(screen: Screen, platform: Platform, name: str, kind: Kind | None) -> int:
    registry = registry_of(platform.settings)
    done = dropped(_inventory(platform), platform.applied, registry, name, kind)
    screen.show(f"dropped {name}", [asdict(one) | {"views": ", ".join(one.views)} for one in done])
    return 0


def card(screen: Screen, platform: Platform, version: str, html: bool, out: Path | None) -> int:
    made = registry_of(platform.settings).card(version)
    text = made.html() if html else made.markdown()
    if out is not None:
        out.write_text(text, encoding="utf-8")
        screen.show(f"card of {made.reference}", [{"written to": str(out), "characters": len(text)}])
    elif screen.as_json:
        screen.tree(made.reference, made.to_json())
    else:
        screen.console.print(text, markup=False, highlight=False, soft_wrap=True, end="")
    return 0


def reproduce(screen: Screen, platform: Platform, version: str, retrain: bool) -> int:
    known = registry_of(platform.settings).get(version)
    with screen.working("reproduce"):
        result = platform.reproduce(known)
    rows = [{"what": name, "recorded": "", "now": f"missing: {why}"} for name, why in result.missing.items()]
    if not rows:
        rows = _compared(result)
    verdict = "the same" if result.same else "cannot be built" if result.missing else "another one"
    told, same = {"verdict": verdict}, result.same
    if retrain and result.training_set is not None:
        with screen.working("retrain"):
            again = platform.retrain(known, result.training_set)
        rows += _trained_again(again)
        told["weights"], same = ("the same, to the bit" if again.same else "others"), same and again.same
    screen.show(f"training set of {known.reference}", rows, {**told, **result.changed})
    return 0 if same else 1


def _compared(result: Reproduction) -> list[dict[str, Any]]:
    content = result.recorded_content or "not recorded, so not compared"
    return [
        {"what": "fingerprint", "recorded": result.recorded_fingerprint, "now": result.fingerprint},
        {"what": "content", "recorded": content, "now": result.content or ""},
        {"what": "rows", "recorded": result.recorded_rows, "now": result.rows},
    ]


def _trained_again(again: "Retrained") -> list[dict[str, Any]]:
    weights = {"what": "weights", "recorded": again.recorded_weights, "now": again.weights}
    return [weights, *({"what": name, "recorded": a, "now": b} for name, (a, b) in again.metrics.items())]


def _inventory(platform: Platform) -> Inventory:
    return Inventory.of(platform.applied, registry_of(platform.settings).list())


_VERBS: Mapping[str, Callable[..., int]] = {
    "find": find,
    "describe": describe,
    "impact": impact,
    "drop": drop,
    "card": card,
    "reproduce": reproduce,
}
