"""The state that the audit rows tell of, made anew from them, against the state that the tables hold.

The chain shows that no row was changed or left out. It cannot show a table that was changed without a row: this does.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlmodel import Session

from mlray.registry.audit import UNCHANGED
from mlray.registry.held import HELD
from mlray.registry.identity import UNPROVEN
from mlray.registry.replay_models import NOT_TOLD, State, replay_model
from mlray.registry.tables import AuditRow


def state_break(session: Session, rows: Iterable[AuditRow]) -> str | None:
    """The first thing in the tables that the rows, in order, do not tell of; None where they agree."""
    told: State = {kind: {} for kind in HELD}
    for row in rows:
        try:
            _replay(told, row)
        except (KeyError, TypeError, IndexError):
            return f"audit row {row.sequence} tells of something that the rows before it do not know"
    for kind, held in HELD.items():
        there = held(session)
        for key in sorted(told[kind].keys() | there.keys(), key=str):
            if not _same(told[kind].get(key), there.get(key)):
                said, found = told[kind].get(key, "nothing"), there.get(key, "nothing")
                return f"{kind} {_name(key)} was changed without a row: the rows say {said}, the table says {found}"
    return None


def _replay(told: State, row: AuditRow) -> None:
    before, after, model = row.before or {}, row.after or {}, row.model
    if UNCHANGED in after:
        return
    match row.action:
        case "set_alias":
            told["alias"][model, after["alias"]] = after["version"]
            told["last change of"][model,] = row.at
        case "remove_alias":
            told["alias"].pop((model, before["alias"]), None)
            told["last change of"][model,] = row.at
        case "promote" | "archive" | "rollback":
            _replay_move(told, row, after)
        case "approve":
            word = (model, after["version"], after["stage"], after["role"], row.who, after["digest"], after["policy"])
            told["approval"][row.sequence] = (*word, row.at, None, None)
        case "revoke_approval":
            for one in before["approvals"]:
                told["approval"][one] = (*told["approval"][one][:8], row.at, told["approval"][one][9])
        case "set_policy":
            told["policy"][row.sequence] = (after["policy"], after["document"])
        case "add_user" | "renew_token" | "grant" | "revoke" | "disable":
            _replay_user(told, row, before, after)
        case "sweep" | "swept" | "drop" | "apply_again":
            pass  # of bytes that nothing in a table names; of the catalog, for which the rows themselves are the state
        case _:
            replay_model(told, row)


def _replay_move(told: State, row: AuditRow, after: Mapping[str, Any]) -> None:
    key = (row.model, after["version"])
    _, _, digest, author = told["version"][key]
    told["version"][key] = (after["stage"], after["row_version"], digest, author)
    told["last change of"][key] = row.at
    for number, spell in told["promotion"].items():
        if spell[:2] == key and spell[5] is None:
            told["promotion"][number] = (*spell[:5], after.get("ended", "left"))
    if row.action == "promote" and after["stage"] in ("Canary", "Production"):
        told["promotion"][row.sequence] = (*key, after["stage"], digest, after["policy"], None)
    if row.action == "rollback":
        told["promotion"][after["promotion"]] = (*told["promotion"][after["promotion"]][:5], None)
    for one in after.get("approvals", ()):
        told["approval"][one] = (*told["approval"][one][:9], row.sequence)
    for alias, version in after.get("aliases", {}).items():
        if version is None:
            told["alias"].pop((row.model, alias), None)
        else:
            told["alias"][row.model, alias] = version


def _replay_user(told: State, row: AuditRow, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    match row.action:
        case "add_user":
            told["user"][after["user"]] = (after["token_sha256"], False, row.at)
            told["role"] |= {(after["user"], role): row.sequence for role in after["roles"]}
        case "renew_token":
            told["user"][after["user"]] = (after["token_sha256"], *told["user"][after["user"]][1:])
        case "grant":
            told["role"][after["user"], after["role"]] = row.sequence
        case "revoke":
            told["role"].pop((before["user"], before["role"]), None)
        case "disable":
            token, _, made = told["user"][before["user"]]
            told["user"][before["user"]] = (token, True, made)


def _same(said: Any, found: Any) -> bool:
    """Rows of the first schema name an author as the operating system did, without the mark that versions bear now, and
    say nothing of the record.
    """
    if said in (NOT_TOLD, found):
        return found is not None
    if isinstance(said, set) and isinstance(found, set):
        return {_marked(one, found) for one in said} == found
    return isinstance(said, tuple) and len(said) == 4 and (*said[:3], f"{UNPROVEN}{said[3]}") == found


def _marked(author: str, found: set[str]) -> str:
    return author if author in found else f"{UNPROVEN}{author}"


def _name(key: Any) -> str:
    return "/".join(map(str, key)) if isinstance(key, tuple) else str(key)
