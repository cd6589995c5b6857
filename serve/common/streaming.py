"""Server-sent events as OpenAI clients read them, and text that only ever grows."""

import json
from collections.abc import Sequence
from typing import Any

DONE = "data: [DONE]\n\n"
MEDIA_TYPE = "text/event-stream"
EVENTS = {
    MEDIA_TYPE: {
        "schema": {
            "type": "object",
            "properties": {"data": {"type": "string", "description": "a chunk as JSON; at the end, [DONE]"}},
            "required": ["data"],
        }
    }
}
"""``content`` of an answer in the OpenAPI document: the schema is that of each event."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def event(value: Any) -> str:
    """One event."""
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


class GrowingText:
    """Turns whole texts, each a longer decoding of the same tokens, into pieces that can be sent.

    What may still change is held back: the last character while its bytes are incomplete, and an ending that may become
    a stop text.

    Args:
        stop: texts that end the continuation.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(stop)
        self.sent = 0
        """Characters of the text that have been given out."""

    def piece(self, text: str, finished: bool) -> str:
        """What can be sent now."""
        safe = len(text) if finished else self._safe_length(text)
        piece = text[self.sent : safe]
        self.sent = max(self.sent, safe)
        return piece

    def _safe_length(self, text: str) -> int:
        safe = len(text.rstrip(REPLACEMENT))
        for stop in self._stop:
            settled = text[:safe]
            for length in range(min(len(stop) - 1, safe), 0, -1):
                if settled.endswith(stop[:length]):
                    safe -= length
                    break
        return safe
