"""One text per value: what is hashed, compared or stored as JSON goes through here."""

import json
from hashlib import sha256
from typing import Any


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no blanks and only ASCII; floats by `repr`, so that they come back exact.

    NaN and the infinities are written as Python's `json` reads them (`NaN`, `Infinity`, `-Infinity`).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def sha256_text(text: str) -> str:
    """Hexadecimal SHA-256 of the text in UTF-8; of any text, half of a surrogate pair too."""
    return sha256(text.encode(errors="surrogatepass")).hexdigest()
