"""What a caller sends: names, versions, texts and JSON that every database and every answer can carry."""

import math
from typing import Annotated, Any

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mlray.registry.plain import unfit
from mlray.registry.reference import MAX_VERSION, checked_name

MAX_TEXT = 1 << 20
NAME_PATTERN = "^[a-z][a-z0-9_-]{0,127}$"


def _named(name: str) -> str:
    return checked_name("name", name)


def _text(text: str) -> str:
    if "\x00" in text:
        raise ValueError("text without NUL is due")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("text is due, and half of a surrogate pair is none") from error
    return text


def _json(value: Any) -> Any:
    """The value itself where it can be kept and answered."""
    if (why := unfit(value)) is not None:
        raise ValueError(f"plain JSON is due: {why}")
    return value


def plain(value: Any) -> Any:
    """The value as JSON has it: NaN and the infinities are the texts NaN, Infinity and -Infinity, and read back."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def number(value: Any) -> Any:
    """The value itself where it is what `plain` makes of a number: neither true, nor any other text."""
    if isinstance(value, bool) or (isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity")):
        raise ValueError("a number is due, or one of the texts NaN, Infinity and -Infinity")
    return value


Name = Annotated[str, AfterValidator(_named), Field(json_schema_extra={"pattern": NAME_PATTERN})]
Text = Annotated[str, AfterValidator(_text), Field(max_length=MAX_TEXT)]
Json = Annotated[dict[str, Any], AfterValidator(_json)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
InPath = Annotated[Name, Path()]
VersionInPath = Annotated[int, Path(ge=1, le=MAX_VERSION)]
TextInPath = Annotated[Text, Path()]


class Asked(BaseModel):
    """What a body holds; another field is refused."""

    model_config = ConfigDict(extra="forbid")
