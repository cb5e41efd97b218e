"""What several tests of the runtime and the command line are made with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from click.testing import CliRunner, Result

from lepton_edge.backend import TensorSpec
from lepton_edge.bundle import Bundle, open_bundle
from lepton_edge.bundle import manifest as manifests
from lepton_edge.bundle.manifest import Text
from lepton_edge.cli import main
from lepton_edge.runtime.session_model import SessionModel
from lepton_edge.runtime.text import TextEncoder, Tokens
from lepton_edge.tasks import task_class
from lepton_edge.tasks.base import Task
from lepton_edge.testing import FakeBackend

if TYPE_CHECKING:
    from lepton_edge.backend import Tensors

IDS = TensorSpec("input_ids", "int64", ("batch", "length"))
MASK = TensorSpec("attention_mask", "int64", ("batch", "length"))
TYPES = TensorSpec("token_type_ids", "int64", ("batch", "length"))


def byte_tokenizer() -> str:
    """A tokenizer.json with a token for each UTF-8 byte, so that ids say what the text was."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate(["[PAD]", "[CLS]", *alphabet])}
    tokenizer: Any = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:1", special_tokens=[("[CLS]", 1)]
    )
    text: str = tokenizer.to_str()
    return text


def byte_encoder(folder: Path, **text: Any) -> TextEncoder:
    """A `TextEncoder` on `byte_tokenizer`: a text has one token and one for each of its bytes."""
    file = folder / "tokenizer.json"
    file.write_text(byte_tokenizer(), encoding="utf-8")
    limits = {"max_length": 16, "on_long_text": "truncate", "max_characters": 1000, "pad_id": 0}
    return TextEncoder(file, Text(**{**limits, **text}))


def byte_model(bundle: Bundle, **text: Any) -> SessionModel:
    """A model on the fake bundle's artifact that reads bytes, opened without the registry."""
    artifact = bundle.manifest.artifacts[0]
    task = task_class(bundle.manifest.task).from_manifest(bundle.manifest.task_config)
    session = FakeBackend().load(bundle.path / artifact.directory, artifact.compiled)
    return SessionModel(bundle.manifest, session, byte_encoder(bundle.path.parent, **text), task)


def answers(
    task: Task[Any, Any], outputs: Tensors, truncated: Sequence[bool], **parameters: Any
) -> list[Any]:
    """A task's results for outputs that were not computed: one sequence of one token a text."""
    asked = task.parameters(parameters)
    sequences = [Tokens([1], [0], flag) for flag in truncated]
    values = task.read(outputs, sequences, asked)
    pairs = zip(sequences, values, strict=True)
    return [task.result("a text", [tokens], [value], asked) for tokens, value in pairs]


def rewrite(bundle: Bundle, **changes: Any) -> Bundle:
    """Put another manifest in the bundle: its own with some fields replaced."""
    manifest = msgspec.structs.replace(bundle.manifest, **changes)
    (bundle.path / manifests.FILE_NAME).write_bytes(manifests.encode(manifest))
    return open_bundle(bundle.path)


def flip_byte(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def invoke(*arguments: object, stdin: str | bytes | None = None) -> Result:
    """The command line in this process. An exception that it lets out is raised."""
    runner = CliRunner()
    return runner.invoke(
        main, [str(each) for each in arguments], input=stdin, catch_exceptions=False
    )


def fails(*arguments: object, stdin: str | bytes | None = None) -> str:
    """What a command that must fail with our own error prints; standard output stays empty."""
    result = invoke(*arguments, stdin=stdin)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    return result.stderr


def printed(*arguments: object, stdin: str | bytes | None = None) -> Any:
    """The JSON that a command that must succeed prints."""
    result = invoke(*arguments, "--json", stdin=stdin)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def command(*arguments: object) -> list[str]:
    """The installed command, for a process of its own."""
    return [str(Path(sys.executable).with_name("lepton-edge")), *map(str, arguments)]


def environment(plugins: Path, **more: str) -> dict[str, str]:
    """This process's environment, with a plugin's folder on the path."""
    return {**os.environ, "PYTHONPATH": str(plugins), "NO_COLOR": "1", **more}


def process(
    arguments: Sequence[object], plugins: Path, stdin: bytes = b"", **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the installed command to its end."""
    return subprocess.run(
        command(*arguments),
        input=stdin,
        capture_output=True,
        env=environment(plugins, **more),
        timeout=60,
        check=False,
    )
