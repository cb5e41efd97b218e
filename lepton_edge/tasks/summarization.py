"""Summarization: what a text says, in fewer words."""

from __future__ import annotations

from typing import ClassVar

from lepton_edge.tasks.text_to_text import TextToText


class Summarization(TextToText):
    """Summarizes a text."""

    name: ClassVar[str] = "summarization"
