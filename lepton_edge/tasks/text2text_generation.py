"""Text to text: an answer to a text, whatever the model was trained for."""

from __future__ import annotations

from typing import ClassVar

from lepton_edge.tasks.text_to_text import TextToText


class Text2TextGeneration(TextToText):
    """Answers a text with another."""

    name: ClassVar[str] = "text2text-generation"
