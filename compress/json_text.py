"""Parsing JSON that somebody else wrote."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["parse_json"]


def parse_json(text: str) -> Any:
    """Parse JSON text.

    Raises:
        json.JSONDecodeError: it is not JSON, is nested too deeply for Python's parser (which raises
            RecursionError), or holds a number with more digits than Python converts.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("brackets are nested too deeply", text, 0) from None
    except ValueError as error:  # int() refuses text of more than 4,300 digits
        raise json.JSONDecodeError(str(error), text, 0) from None
