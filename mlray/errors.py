"""Every error that a caller can act on: what was asked, what was needed, what was got, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Self


def first_line(error: BaseException) -> str:
    """What the error says first; engines and clients of stores add their stacks and pages of detail."""
    return str(error).strip().partition("\n")[0]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The sentence that lists `known` and points at the nearest one; empty where nothing is known."""
    names = sorted(set(known))
    if not names:
        return ""
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"; known are {shown}" + (f"; did you mean '{near[0]}'?" if near else "")


class MlrayError(Exception):
    """The root of all errors raised on purpose by mlray."""


class DefinitionError(MlrayError, ValueError):
    """A declaration contradicts itself or the contract."""


class ConfigError(MlrayError, ValueError):
    """A setting is missing, misspelt or cannot work here."""

    @classmethod
    def unknown_key(cls, where: str, key: str, known: Iterable[str]) -> Self:
        return cls(f"{where}: there is no setting '{key}'{did_you_mean(key, known)}")


class UnknownName(MlrayError, LookupError):
    """A name that nothing carries."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> Self:
        return cls(f"there is no {kind} '{name}'{did_you_mean(name, known)}")


class SchemaError(MlrayError, ValueError):
    """Columns or types are not what a definition needs."""

    @classmethod
    def missing_column(cls, who: str, column: str, where: str, columns: Iterable[str]) -> Self:
        return cls(f"{who}: column '{column}' is not in {where}{did_you_mean(column, columns)}")


class TimeError(MlrayError, ValueError):
    """An instant that is naive, out of range or out of reach."""

    @classmethod
    def naive(cls, argument: str, value: object) -> Self:
        return cls(
            f"{argument}={value!r} has no time zone; pass an aware datetime, for example "
            "datetime(2026, 1, 31, tzinfo=timezone.utc)"
        )


class TableNotFound(MlrayError, LookupError):
    """A Delta table that is not where it was said to be."""


class OverflowInSum(MlrayError, OverflowError):
    """An integer sum left int64."""


class TransformationFailed(MlrayError):
    """A `select`, a `where` or an on-demand function raised; the message names it and the rows it had."""


class NotMaterialized(MlrayError):
    """A view has no online state yet."""


class DefinitionChanged(MlrayError):
    """A model pins definitions that are no longer those it is asked to run with."""


class CorruptArtifact(MlrayError):
    """Bytes whose digest is not the recorded one."""


class PickleRefused(MlrayError, ValueError):
    """A pickle where none was allowed: loading one runs whatever code it holds."""


class TrainingFailed(MlrayError):
    """A run that could not end well; the message names the step and the remedy."""


class GateFailed(MlrayError):
    """A run that a gate has stopped; the message names the gate, the value, the threshold and the report."""


class ExplanationFailed(MlrayError):
    """SHAP values that do not add up to what the model said; no prediction is at fault."""


class PortInUse(MlrayError, OSError):
    """A port that another process holds."""


class Conflict(MlrayError):
    """Somebody else changed the same thing first."""


class AlreadyExists(Conflict):
    """A name that something else of the kind has already."""


class InvalidName(MlrayError, ValueError):
    """A name outside the one rule of its kind."""


class InvalidQuery(MlrayError, ValueError):
    """A search for a field, a comparison or a page that there is not."""

    @classmethod
    def unknown(cls, kind: str, name: str, known: Iterable[str]) -> Self:
        return cls(f"there is no {kind} '{name}'{did_you_mean(name, known)}")


class Unauthenticated(MlrayError, PermissionError):
    """A change asked for without a token, or with one that no active user holds."""


class Forbidden(MlrayError, PermissionError):
    """A change that this user, known by the token, may not make; the message names the role that may."""


class NotApproved(MlrayError, PermissionError):
    """A stage or a protected alias asked for before its approvals and gates are complete; the message lists what is
    missing. roles: whose approval, one entry per person; gates: that have no result, or a failed one.
    """

    def __init__(self, message: str, *, roles: Iterable[str] = (), gates: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.roles, self.gates = tuple(roles), tuple(gates)

    def __reduce__(self) -> tuple[Any, ...]:
        return _not_approved, (str(self), self.roles, self.gates)


def _not_approved(message: str, roles: tuple[str, ...], gates: tuple[str, ...]) -> NotApproved:
    return NotApproved(message, roles=roles, gates=gates)


class RegistryUnavailable(MlrayError, ConnectionError):
    """The database, the artifact store or the actor of the registry does not answer; trying later may help."""


class StoreError(MlrayError):
    """An online store that cannot be opened, read or written; what it held before the call it still holds."""


class Busy(MlrayError):
    """More rows wait to be ingested, or requests to be explained, than may; retry_after: seconds until room."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[Self], tuple[str, int]]:
        return type(self), (str(self), self.retry_after)


class Unanswered(MlrayError, ConnectionError):
    """The process that was asked ended before it answered; whether it did what was asked is not known."""


class InvalidRequest(MlrayError, ValueError):
    """A request that is not JSON, or not JSON of the right shape."""


class RequestTooLarge(MlrayError, ValueError):
    """More bytes or rows in one request than the server takes."""


class LogUnavailable(MlrayError):
    """A prediction log that cannot take or write rows; the message says how many wait, and why."""


class ServingFailed(MlrayError):
    """A deployment that did not become ready; the message carries what its replica said."""


class RayUnavailable(MlrayError, ConnectionError):
    """No Ray cluster could be joined or started."""
