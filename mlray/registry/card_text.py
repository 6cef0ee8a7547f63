"""What a person has to say about a model: `[model.card]` of the recipe, kept in the model's own artifact.

The run writes it as `card.json` beside the weights, so the digest that is approved covers it: another word is another
artifact. The gate `model_card` is the run's result on whether all is said that has to be.
"""

from collections.abc import Mapping
from pathlib import Path

from mlray.errors import ConfigError, SchemaError
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.canonical import canonical_json
from mlray.registry.gates import Gate
from mlray.registry.manifest import Manifest
from mlray.registry.plain import read_json

CARD_FILE = "card.json"
REQUIRED = ("purpose", "owner", "limits")
"""What the model is for, who answers for it, and where it must not be used."""

CardText = Mapping[str, str]


def checked_card(card: Mapping[str, object], where: str = "[model.card]") -> dict[str, str]:
    """The card as texts by field; ConfigError for anything that is no text."""
    for field, text in card.items():
        if not isinstance(text, str):
            raise ConfigError(f"{where} {field}={text!r} is no text; a card is written for people")
    return {field: str(text) for field, text in card.items()}


def card_gate(card: CardText) -> Gate:
    """Whether every field of `REQUIRED` is filled; the value is how many are."""
    filled = [field for field in REQUIRED if card.get(field, "").strip()]
    return Gate(passed=len(filled) == len(REQUIRED), value=len(filled), threshold=len(REQUIRED))


def write_card(checkpoint: str | Path, card: CardText) -> None:
    """Puts the text into the checkpoint, before its gates are written; nothing where there is no text."""
    if card:
        (Path(checkpoint) / CARD_FILE).write_text(canonical_json(checked_card(card)))


def card_text(artifacts: ArtifactStore, manifest: Manifest) -> dict[str, str]:
    """The text that an artifact holds, verified, none without a `card.json`; SchemaError for a malformed one."""
    plain = read_json(artifacts, manifest, CARD_FILE)
    try:
        return {} if plain is None else checked_card(dict(plain))
    except (ValueError, TypeError) as error:
        raise SchemaError(f"{CARD_FILE} of artifact {manifest.digest} is not what a run writes: {error}") from error
