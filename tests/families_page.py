"""docs/families.md, written from what the tests of the families found: `make families`."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

# What a column says, and the tests, by their file's and their own name, that have to pass for a
# family to have its mark there.
DECODER_COLUMNS = {
    "prompt": "test_decoder_families.test_a_prompt_is_a_step_from_an_empty_cache",
    "token by token": (
        "test_decoder_families.test_token_by_token_equals_the_whole_text_beyond_the_window"
    ),
    "left padding": "test_decoder_families.test_rows_padded_on_the_left_answer_as_they_do_alone",
    "OpenVINO": "test_openvino_decoder.test_every_family_generates_what_torch_does",
}
ENCODER_DECODER_COLUMNS = {
    "token by token": "test_encoder_decoder.test_token_by_token_equals_the_whole_answer",
    "greedy": "test_encoder_decoder.test_greedy_answers_are_transformers_own",
    "4 beams": "test_encoder_decoder.test_four_beams_find_transformers_own_answers",
}
NOTE = "<!-- Written by `make families` from the tests' results. -->\n"

_HEAD = f"""{NOTE}
# Families of models that generate

Each is exported from a tiny random configuration (sliding windows, grouped heads, tied weights
where the family has them) and compared with transformers by the tests; a mark stands for tests that
passed.

- **prompt**: one step from an empty cache, for several shapes of batches.
- **token by token**: each step from the cache of those before equals the whole text, beyond the
  sliding window where there is one.
- **left padding**: rows of a batch answer as they do alone.
- **OpenVINO**: greedy text through openvino-genai's paged attention, or where the family does not
  fit it through the model's own cache, equals torch's.
- **greedy**, **4 beams**: whole answers equal transformers' `generate`, through torch's program,
  ONNX Runtime and OpenVINO.
"""


class FamilyResults:
    """A pytest plugin: collects the outcomes of those tests, and writes the page at the end."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._passed: dict[tuple[str, str], list[bool]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.passed:
            return
        module, _, name = report.nodeid.partition("::")
        test, _, given = name.partition("[")
        key = f"{Path(module).stem}.{test}"
        for part in re.split(r"[-\]]", given):
            self._passed[key, part].append(report.passed)

    def pytest_sessionfinish(self) -> None:
        from lepton_edge.builder.decoder import DECODERS
        from lepton_edge.builder.encoder_decoder import ENCODER_DECODERS

        named = {kind: family.name for kind, family in ENCODER_DECODERS.items()}
        self._file.write_text(
            f"{_HEAD}\n## Decoders: `text-generation`\n\n"
            f"{self._table(DECODERS, DECODER_COLUMNS)}\n"
            "## Encoders with a decoder: `translation`, `summarization`, `text2text-generation`\n\n"
            f"{self._table(named, ENCODER_DECODER_COLUMNS)}",
            encoding="utf-8",
        )

    def _table(self, families: dict[str, str], columns: dict[str, str]) -> str:
        rows = [
            f"| family | `model_type` | {' | '.join(columns)} |",
            f"| --- | --- |{' --- |' * len(columns)}",
        ]
        for kind, name in sorted(families.items(), key=lambda pair: pair[1]):
            marks = [self._mark(test, kind) for test in columns.values()]
            rows.append(f"| {name} | `{kind}` | {' | '.join(marks)} |")
        return "\n".join(rows) + "\n"

    def _mark(self, test: str, family: str) -> str:
        found = self._passed.get((test, family))
        if not found:
            return "not tested"
        return "✓" if all(found) else "fails"
