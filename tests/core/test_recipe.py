"""Recipes: what is read, and what is refused with file, line and what to write instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lepton_edge import registry
from lepton_edge.errors import BackendError, RecipeError
from lepton_edge.recipe import (
    Parity,
    Recipe,
    Source,
    Text,
    load_recipe,
    options_schema,
    parse_recipe,
    schema,
)
from lepton_edge.tasks import TASKS, task_class
from lepton_edge.testing import write_fake_distribution

# A backend of targets that is not installed keeps its block as it is.
pytestmark = pytest.mark.usefixtures("without_tensorrt")
START = "name: demo\nsource: model\n"
REVISION = "0123456789abcdef0123456789abcdef01234567"


def parse(text: str | bytes) -> Recipe:
    return parse_recipe(text, "r.yaml")


def fault(text: str | bytes) -> RecipeError:
    """The error for a recipe; its hint names the next step."""
    with pytest.raises(RecipeError) as caught:
        parse(text)
    return caught.value


def faults(text: str | bytes) -> list[str]:
    """Its message, a fault a line."""
    return fault(text).message.splitlines()


# What is read


def test_a_whole_recipe_is_read() -> None:
    recipe = parse(f"""
name: my-model.v2
version: "2.0.1"
description: something for people
license: MIT
source: {{hub: org/model, revision: {REVISION}, sha256: "{"0" * 64}"}}
task: text-classification
precision: bf16
text: {{max_length: 128, on_long_text: refuse, max_characters: 5000}}
parity: {{sample: [one, two], max_error: 0.5, mean_error: 1, min_cosine: 0.9, mean_cosine: 1,
  equal_labels: 0}}
task_options: {{labels: [a, b], multi_label: true, threshold: 0.25}}
backends: {{tensorrt: {{anything: [1, 2]}}}}
""")
    assert recipe == Recipe(
        name="my-model.v2",
        version="2.0.1",
        description="something for people",
        license="MIT",
        source=Source(hub="org/model", revision=REVISION, sha256="0" * 64),
        task="text-classification",
        precision="bf16",
        text=Text(max_length=128, on_long_text="refuse", max_characters=5000),
        parity=Parity(
            sample=("one", "two"),
            max_error=0.5,
            mean_error=1.0,
            min_cosine=0.9,
            mean_cosine=1.0,
            equal_labels=0.0,
        ),
        task_options={"labels": ["a", "b"], "multi_label": True, "threshold": 0.25},
        backends={"tensorrt": {"anything": [1, 2]}},
    )
    assert recipe.options_of_task("text-classification").labels == ("a", "b")


def test_what_is_absent_has_its_default() -> None:
    recipe = parse(START)
    assert recipe == Recipe(name="demo", source=Source(path="model"))
    assert (recipe.version, recipe.precision, recipe.task) == ("1.0.0", "auto", None)
    assert (recipe.text.max_length, recipe.text.on_long_text) == (None, "truncate")


@pytest.mark.parametrize(
    "data",
    [
        START.encode(),
        b"\xef\xbb\xbf" + START.encode(),
        START.encode("utf-16"),
        START.replace("\n", "\r\n").encode(),
        f"---\n{START}...\n".encode(),
        f"# a comment\n\n{START}\n# the end".encode(),
        json.dumps({"name": "demo", "source": "model"}).encode(),
    ],
    ids=["utf-8", "mark", "utf-16", "crlf", "markers", "comments", "json"],
)
def test_every_way_to_write_yaml_gives_the_same_recipe(data: bytes) -> None:
    assert parse(data) == parse(START)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01 10:00:00", "2026-01-01 10:00:00"),
        ("=", "="),
        ("<<", "<<"),
        ("!!str 12", "12"),
        ('"yes"', "yes"),
        ('"1e-3"', "1e-3"),
        ("1e-3", "1e-3"),
        ("'🙂 naïve'", "🙂 naïve"),
        ('"\\U0001F642"', "🙂"),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_text_stays_as_it_was_written(written: str, text: str) -> None:
    assert parse(f"{START}description: {written}\n").description == text


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "1.0e-3", "1.e-3", "+10e-4", "0.001"])
def test_a_number_may_be_written_with_an_exponent(written: str) -> None:
    """YAML alone takes some of these for text, and so does what JSON writes for 1e-05."""
    assert parse(f"{START}parity: {{max_error: {written}}}").parity.max_error == 1e-3


def test_an_exponent_in_a_tasks_block_says_how_to_write_it() -> None:
    start = f"{START}task: text-classification\ntask_options: "
    (message,) = faults(f"{start}{{threshold: 1e-3}}\n")
    assert message.startswith("r.yaml:4: task_options.threshold is '1e-3': ")
    assert message.endswith("(YAML takes this for text: write it as in 1.0e-3)")
    assert parse(f"{start}{{threshold: 1.0e-3}}\n").task_options == {"threshold": 1e-3}


def test_a_recipe_cannot_be_changed_in_place() -> None:
    recipe = parse(START)
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"  # type: ignore[misc]


def test_changed_gives_a_validated_copy() -> None:
    recipe = parse(START)
    assert recipe.changed(precision="fp32").precision == "fp32"
    assert recipe.changed() == recipe
    with pytest.raises(RecipeError, match="demo: precision is 'fp13'"):
        recipe.changed(precision="fp13")
    with pytest.raises(RecipeError, match="did you mean 'text-classification'"):
        recipe.changed(task="text-clasification")


# Keys


@pytest.mark.parametrize(
    ("text", "line", "key", "near"),
    [
        ("nmae: demo\nsource: model\n", 1, "nmae", "name"),
        (f"{START}vesion: 1\n", 3, "vesion", "version"),
        ("name: demo\nsource: {paht: model}\n", 2, "source.paht", "path"),
        ("name: demo\nsource:\n  onnx: m.onnx\n  tokeniser: t\n", 4, "source.tokeniser", "token"),
        (f"{START}text:\n  max_lenght: 8\n", 4, "text.max_lenght", "max_length"),
        (f"{START}parity:\n  min_cosin: 1\n", 4, "parity.min_cosin", "min_cosine"),
        (f"{START}text: {{max_length: 8, long: refuse}}", 3, "text.long", "on_long_text"),
        (
            f"{START}task: text-classification\ntask_options:\n  lables: [a]\n",
            5,
            "task_options.lables",
            "labels",
        ),
        (
            f"{START}task: feature-extraction\ntask_options:\n  poling: cls\n",
            5,
            "task_options.poling",
            "pooling",
        ),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest(
    text: str, line: int, key: str, near: str
) -> None:
    messages = faults(text)
    assert any(
        message.startswith(f"r.yaml:{line}: unknown key '{key}'; did you mean '{near}")
        for message in messages
    ), messages


def test_an_unknown_key_like_no_other_gets_no_guess() -> None:
    assert faults(f"{START}zzzzzzzz: 1\n") == ["r.yaml:3: unknown key 'zzzzzzzz'"]


def test_a_fault_points_to_the_reference() -> None:
    error = fault(f"{START}zzzzzzzz: 1\n")
    assert error.hint is not None
    assert "lepton-edge recipes --schema" in error.hint
    assert "lepton-edge recipes" in error.hint


def test_an_unknown_key_of_the_fake_backend_is_named(fake_backend: Path) -> None:
    assert faults(f"{START}backends:\n  fake:\n    sead: 1\n") == [
        "r.yaml:5: unknown key 'backends.fake.sead'; did you mean 'seed'?"
    ]


def test_a_wrong_value_of_the_fake_backend_is_named(fake_backend: Path) -> None:
    (message,) = faults(f"{START}backends:\n  fake:\n    seed: many\n")
    assert message.startswith("r.yaml:5: backends.fake.seed is 'many': ")
    assert "integer" in message


def test_the_options_of_the_fake_backend_are_read(fake_backend: Path) -> None:
    recipe = parse(f"{START}backends: {{fake: {{seed: 7}}}}")
    assert recipe.options_of_backend("fake").seed == 7
    assert parse(START).options_of_backend("fake").seed == 0


@pytest.mark.skipif(
    "openvino" not in {entry.name for entry in registry.entries()},
    reason="needs lepton-edge-openvino: pip install -e backends/openvino",
)
def test_unknown_keys_and_values_of_openvino_are_named() -> None:
    assert faults(
        f"{START}backends:\n  openvino:\n    thread: 2\n    performance_hint: fast\n"
    ) == [
        "r.yaml:5: unknown key 'backends.openvino.thread'; did you mean 'threads'?",
        "r.yaml:6: backends.openvino.performance_hint is 'fast': "
        "input should be 'latency' or 'throughput'",
    ]


def test_an_unknown_backend_is_named_with_those_installed(fake_backend: Path) -> None:
    (message,) = faults(f"{START}backends:\n  fakee: {{}}\n")
    assert message.startswith("r.yaml:4: unknown backend 'fakee'; installed: ")
    assert message.endswith("did you mean 'fake'?")


def test_a_block_for_a_known_backend_that_is_not_installed_is_kept() -> None:
    assert registry.how_to_install("tensorrt")
    recipe = parse(f"{START}backends: {{tensorrt: {{workspace: 1}}}}")
    assert recipe.backends == {"tensorrt": {"workspace": 1}}


def test_a_block_for_a_backend_that_cannot_be_imported_is_its_error(fake_backend: Path) -> None:
    write_fake_distribution(fake_backend, backend="torn", points_to="no_such_module:Backend")
    with pytest.raises(BackendError, match="no_such_module"):
        parse(f"{START}backends: {{torn: {{}}}}")


def test_a_recipe_without_backends_imports_none(fake_backend: Path) -> None:
    """Two distributions of one name are an error, and no business of this recipe."""
    write_fake_distribution(fake_backend, backend="other")
    (fake_backend / "lepton_edge_other-1.0.dist-info" / "entry_points.txt").write_text(
        "[lepton_edge.backends]\nfake = no_such_module:Backend\n"
    )
    with pytest.raises(BackendError):
        registry.entries()
    assert parse(START).name == "demo"


def test_a_key_given_twice_is_refused() -> None:
    assert faults(f"{START}name: other\n") == ["r.yaml:3: the key 'name' is given twice"]
    assert faults(f"{START}text:\n  max_length: 8\n  max_length: 9\n") == [
        "r.yaml:5: the key 'max_length' is given twice"
    ]
    assert faults(f"{START}backends:\n  tensorrt: {{1: a, '1': b}}\n") == [
        "r.yaml:4: the key '1' is given twice"
    ]


@pytest.mark.parametrize("key", ["? [a, b]\n: x\n", "? {a: b}\n: x\n"])
def test_a_key_that_is_no_text_is_refused(key: str) -> None:
    assert faults(START + key) == ["r.yaml:3: a key must be plain text"]


def test_a_key_cannot_write_to_the_terminal() -> None:
    (message,) = faults(f'{START}backends: {{tensorrt: 1, "\\e[2Jx": {{}}}}\n')[:1]
    messages = faults(f'{START}text: {{"\\e[2J\\nr.yaml:1: fine": 1}}\n')
    assert all(line.isprintable() for line in [message, *messages])
    assert len(messages) == 1


def test_all_faults_come_together_in_the_order_of_their_lines(fake_backend: Path) -> None:
    messages = faults("""nme: x
source: {paht: m, hub: 5}
version: 1.0
text:
  max_lenght: 8
  max_characters: ten
parity: {min_cosine: 2}
task: text-classification
task_options:
  lables: [a]
  threshold: high
backends:
  fake: {sead: 1}
  fakee: {}
""")
    expected = [
        (1, "name is missing"),
        (1, "unknown key 'nme'"),
        (2, "source.hub is 5"),
        (2, "unknown key 'source.paht'"),
        (3, "version is 1.0"),
        (5, "unknown key 'text.max_lenght'"),
        (6, "text.max_characters is 'ten'"),
        (7, "parity.min_cosine is 2"),
        (10, "unknown key 'task_options.lables'"),
        (11, "task_options.threshold is 'high'"),
        (13, "unknown key 'backends.fake.sead'"),
        (14, "unknown backend 'fakee'"),
    ]
    assert len(messages) == len(expected)
    for message, (line, start) in zip(messages, expected, strict=True):
        assert message.startswith(f"r.yaml:{line}: {start}"), message


# Values


@pytest.mark.parametrize(
    ("line", "key", "value", "wanted"),
    [
        ("version: 1.0", "version", "1.0", "string (quote it)"),
        ("description: 12", "description", "12", "string (quote it)"),
        ("description: yes", "description", "True", "string (quote it)"),
        ("license: [MIT]", "license", "['MIT']", "string"),
        ("description:", "description", "None", "string"),
        ("text: 5", "text", "5", "object"),
        ("text:", "text", "None", "object"),
        ("text: {max_length: '12'}", "text.max_length", "'12'", "integer"),
        ("text: {max_length: 12.5}", "text.max_length", "12.5", "integer"),
        ("text: {max_length: 3}", "text.max_length", "3", "greater than or equal to 4"),
        ("text: {max_length: true}", "text.max_length", "True", "integer"),
        ("text: {max_characters: 0}", "text.max_characters", "0", "greater than or equal to 1"),
        ("text: {on_long_text: cut}", "text.on_long_text", "'cut'", "'truncate' or 'refuse'"),
        ("precision: fp8", "precision", "'fp8'", "'int8-weights' or 'int4-weights'"),
        ("precision: 16", "precision", "16", "'fp16'"),
        ("parity: {max_error: 0}", "parity.max_error", "0", "greater than 0"),
        ("parity: {max_error: '1'}", "parity.max_error", "'1'", "number"),
        ("parity: {min_cosine: 1.1}", "parity.min_cosine", "1.1", "less than or equal to 1"),
        ("parity: {sample: text}", "parity.sample", "'text'", "array"),
        ("parity: {sample: [a, 1]}", "parity.sample.1", "1", "string (quote it)"),
        ("parity: {sample: [a: b]}", "parity.sample.0", "{'a': 'b'}", "string"),
        ("backends: [openvino]", "backends", "['openvino']", "object"),
        ("backends: {tensorrt: 1}", "backends.tensorrt", "1", "object"),
        ("task_options: [a]", "task_options", "['a']", "object"),
        ("task: 5", "task", "5", "string (quote it)"),
        ("version: 1.0.0.0", "version", "'1.0.0.0'", "such as 1.0.0"),
        ("version: ١.٠.٠", "version", "'١.٠.٠'", "such as 1.0.0"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_wanted(
    line: str, key: str, value: str, wanted: str
) -> None:
    (message,) = faults(START + line)
    assert message.startswith(f"r.yaml:3: {key} is {value}: ")
    assert wanted in message


@pytest.mark.parametrize("name", ["Demo", "a b", "-a", "a/b", "..", "''", "a" * 65])
def test_a_name_that_is_no_folder_name_is_refused(name: str) -> None:
    (message,) = faults(f"name: {name}\nsource: model\n")
    assert message.startswith(f"r.yaml:1: name is '{name.strip(chr(39))[:56]}")
    assert "lower-case letters" in message


def test_a_long_value_is_cut_in_the_message() -> None:
    (message,) = faults(f"{START}precision: {'x' * 5000}\n")
    assert len(message) < 200


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{}", "give one of path, hub, onnx, openvino_ir; given: none"),
        ("{path: a, onnx: b}", "give one of path, hub, onnx, openvino_ir; given: path, onnx"),
        (
            f"{{path: a, hub: o/n, onnx: b, revision: {REVISION}}}",
            "give one of path, hub, onnx, openvino_ir; given: path, hub, onnx",
        ),
        ("{hub: o/n}", "a hub model needs its revision: a commit, 40 hexadecimal digits"),
        (f"{{path: a, revision: {REVISION}}}", "revision goes with hub"),
        ("{path: a, tokenizer: t}", "tokenizer goes with onnx"),
    ],
)
def test_a_source_has_one_kind_and_what_goes_with_it(source: str, problem: str) -> None:
    assert faults(f"name: demo\nsource: {source}\n") == [f"r.yaml:2: source: {problem}"]


@pytest.mark.parametrize("revision", ["main", "v1.0", REVISION[:-1], REVISION.upper()])
def test_a_revision_that_can_move_is_refused(revision: str) -> None:
    (message,) = faults(f"name: demo\nsource: {{hub: o/n, revision: {revision}}}\n")
    assert message.startswith(f"r.yaml:2: source.revision is '{revision}'")
    assert "40 hexadecimal digits" in message


def test_a_revision_of_digits_alone_must_be_quoted() -> None:
    (message,) = faults(f"name: demo\nsource: {{hub: o/n, revision: {'1' * 40}}}\n")
    assert "quote it" in message
    assert parse(f"name: demo\nsource: {{hub: o/n, revision: '{'1' * 40}'}}\n").source


@pytest.mark.parametrize("key", ["path", "hub", "onnx"])
def test_an_empty_source_is_refused(key: str) -> None:
    (message,) = faults(f'name: demo\nsource: {{{key}: ""}}\n')
    assert message.startswith(f"r.yaml:2: source.{key} is '': ")


def test_an_unknown_task_is_named_with_those_known() -> None:
    (message,) = faults(f"{START}task: text-clasification\n")
    assert message == (
        f"r.yaml:3: task: unknown 'text-clasification'; known: {', '.join(TASKS)}; "
        "did you mean 'text-classification'?"
    )


def test_options_of_no_task_are_refused_where_they_stand() -> None:
    (message,) = faults(f"{START}task_options: {{labels: [a]}}\n")
    assert message.startswith("r.yaml:3: task_options: ")
    assert "name it with task" in message


def test_options_of_an_unknown_task_are_not_blamed() -> None:
    (message,) = faults(f"{START}task: nonsense\ntask_options: {{labels: [a]}}\n")
    assert message.startswith("r.yaml:3: task: unknown 'nonsense'")


def test_options_are_checked_again_for_another_task() -> None:
    recipe = parse(f"{START}task: text-classification\ntask_options: {{labels: [a]}}\n")
    with pytest.raises(RecipeError, match=r"demo: unknown key 'task_options\.labels'"):
        recipe.options_of_task("feature-extraction")


def test_options_of_a_recipe_made_in_python_are_checked(fake_backend: Path) -> None:
    recipe = Recipe(name="demo", backends={"fake": {"sead": 1}})
    with pytest.raises(RecipeError, match=r"'backends\.fake\.sead'; did you mean 'seed'"):
        recipe.options_of_backend("fake")


# YAML that is no recipe


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "- a\n- b\n", "just words", "12", "null", "[]"]
)
def test_a_document_that_is_no_mapping_is_refused(text: str) -> None:
    error = fault(text)
    assert error.message == "r.yaml:1: a recipe is a mapping of keys to values"
    assert error.hint is not None
    assert "lepton-edge recipes" in error.hint


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (f"{START}text: {{max_length: 8\n", 4, "expected ',' or '}'"),
        (f"{START}description: a: b\n", 3, "mapping values are not allowed here"),
        ("name: demo\n\tsource: m\n", 2, "'\\t'"),
        (f'{START}description: "open\n', 4, "end of stream"),
        (f"{START}---\n{START}", 3, "expected a single document"),
        (f"{START}: x\n", 3, "expected <block end>"),
        (f'{START}description: "\\q"\n', 3, "unknown escape character"),
    ],
)
def test_text_that_is_no_yaml_is_refused_with_its_line(text: str, line: int, problem: str) -> None:
    message = fault(text).message
    assert message.startswith(f"r.yaml:{line}: not valid YAML: ")
    assert problem in message


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object:os.system",
        "!!python/name:os.system",
        "!!python/object/apply:os.system",
        "!!python/tuple",
        "!!set",
        "!!omap",
        "!!binary",
        "!local",
    ],
)
@pytest.mark.parametrize(
    "place",
    ["description: {tag} x", "text: {tag} {{max_length: 8}}", "parity: {{sample: {tag} [a]}}"],
    ids=["scalar", "mapping", "sequence"],
)
def test_a_tag_that_makes_an_object_is_refused(tag: str, place: str) -> None:
    message = fault(START + place.format(tag=tag)).message
    assert message.startswith("r.yaml:3: the YAML tag ")
    assert tag.lstrip("!") in message


def test_a_tag_on_a_key_is_refused() -> None:
    message = fault(f"{START}!!python/name:os.system description: x\n").message
    assert message.startswith("r.yaml:3: the YAML tag ")


@pytest.mark.parametrize(
    "written",
    ['!!int ""', "!!int x", "!!int _", '!!float ""', "!!float x", "!!bool x", "!!int 1.5"],
)
def test_a_tag_on_other_text_is_refused(written: str) -> None:
    message = fault(f"{START}text: {{max_length: {written}}}\n").message
    assert message.startswith("r.yaml:3: ")
    assert "is not a valid" in message


@pytest.mark.parametrize(
    "number",
    ["9" * 400, "-" + "9" * 400, "0x" + "f" * 5000, "1" + ":59" * 60, str(2**63)],
)
def test_a_number_of_more_than_64_bits_is_refused(number: str) -> None:
    message = fault(f"{START}text: {{max_characters: {number}}}\n").message
    assert message.startswith("r.yaml:3: ")
    assert "is too large a number" in message
    assert len(message) < 200


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan", "1e999", "1:" * 300 + "1.0"])
def test_a_number_that_is_not_finite_is_refused(number: str) -> None:
    message = fault(f"{START}parity: {{max_error: {number}}}\n").message
    assert message.startswith("r.yaml:3: ")
    assert "finite" in message or "is not a valid float" in message


def test_an_alias_is_refused_before_it_expands() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
    )
    assert fault(START + bomb).message == "r.yaml:4: YAML aliases are not allowed in a recipe"


def test_an_anchor_that_nobody_uses_is_harmless() -> None:
    assert parse("name: &here demo\nsource: model\n").name == "demo"


@pytest.mark.parametrize(
    "nest",
    [
        "[" * 1_000_000,
        "{a: " * 200_000,
        "[" * 40 + "]" * 40,
        "\n" + "".join(" " * level + "a:\n" for level in range(1, 60)),
    ],
    ids=["brackets", "braces", "closed", "indented"],
)
def test_deep_nesting_is_refused(nest: str) -> None:
    """PyYAML alone takes minutes for a megabyte of brackets, or runs out of stack."""
    message = fault(f"{START}task_options: {nest}").message
    assert message.startswith("r.yaml:")
    assert "nested too deeply" in message


def test_nesting_that_a_block_may_need_is_read() -> None:
    deep: Any = 1
    for _ in range(20):
        deep = {"a": [deep]} if _ % 2 else [deep]
    recipe = parse(START + yaml.safe_dump({"backends": {"tensorrt": {"deep": deep}}}))
    assert recipe.backends["tensorrt"]["deep"] == deep


def test_a_huge_recipe_is_refused() -> None:
    message = fault(START + "#" * 1024 * 1024).message
    assert message == "r.yaml has more than 1,048,576 bytes, the most of a recipe"


def test_a_large_recipe_is_read() -> None:
    texts = [f"where is my card number {n}?" for n in range(5000)]
    recipe = parse(yaml.safe_dump({"name": "demo", "parity": {"sample": texts}}))
    assert recipe.parity.sample == tuple(texts)


@pytest.mark.parametrize(
    ("data", "line", "problem"),
    [
        (START.encode() + b"description: \xff\n", 3, "the byte 0xff is not utf-8"),
        (START.encode() + b"description: caf\xe9\n", 3, "the byte 0xe9 is not utf-8"),
        (b"\xff\xfea", 1, "is not utf-16-le"),
        (START.encode() + b"description: a\x00b\n", 3, "the character U+0000 is not allowed"),
        (START + "\n\ndescription: \x1b[31m\n", 5, "the character U+001B is not allowed"),
        (b"\x7fELF\x02\x01\x01" + bytes(64), 1, "the character U+007F is not allowed"),
    ],
)
def test_bytes_that_are_no_text_are_refused_with_their_line(
    data: str | bytes, line: int, problem: str
) -> None:
    error = fault(data)
    assert error.message.startswith(f"r.yaml:{line}: ")
    assert problem in error.message
    assert error.hint == "save the file as UTF-8 text"


def test_a_lone_surrogate_is_refused() -> None:
    assert "lone surrogate" in fault(f'{START}description: "\\ud800"\n').message
    assert "lone surrogate" in fault(f'{START}"\\ud800": x\n').message


@pytest.mark.parametrize("text", ['a: "\\UFFFFFFFF"', "%YAML 1." + "9" * 5000 + "\n---\na: b"])
def test_numbers_in_yamls_own_syntax_are_checked(text: str) -> None:
    assert fault(text).message.startswith("r.yaml: not valid YAML: ")


# Files


def test_relative_paths_start_at_the_recipes_folder(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "demo.yaml"
    file.parent.mkdir()
    file.write_text("name: demo\nsource: ../model\n")
    assert load_recipe(file).source == Source(path=str(tmp_path / "sub" / ".." / "model"))
    file.write_text("name: demo\nsource: {onnx: m.onnx, tokenizer: tok}\n")
    assert load_recipe(str(file)).source == Source(
        onnx=str(tmp_path / "sub" / "m.onnx"), tokenizer=str(tmp_path / "sub" / "tok")
    )


def test_absolute_paths_and_hub_ids_stay(tmp_path: Path) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text("name: demo\nsource: /models/bert\n")
    assert load_recipe(file).source == Source(path="/models/bert")
    file.write_text(f"name: demo\nsource: {{hub: o/n, revision: {REVISION}}}\n")
    assert load_recipe(file).source == Source(hub="o/n", revision=REVISION)


def test_the_current_folder_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "demo.yaml").write_text(START)
    monkeypatch.chdir(tmp_path)
    assert load_recipe("a/demo.yaml").source == Source(path="a/model")
    monkeypatch.chdir(tmp_path / "a")
    assert load_recipe("demo.yaml").source == Source(path="model")


def test_a_missing_file_says_where_recipes_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is no recipe at .*none\.yaml") as caught:
        load_recipe(tmp_path / "none.yaml")
    assert caught.value.hint == "lepton-edge recipes lists the built-in ones"


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        load_recipe(tmp_path)


def test_a_file_below_a_file_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(START)
    with pytest.raises(RecipeError, match="cannot be read: Not a directory"):
        load_recipe(tmp_path / "file" / "demo.yaml")


def test_a_recipe_without_a_source_is_for_any_model(tmp_path: Path) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text("name: demo\n")
    assert load_recipe(file).source is None


def test_paths_to_data_start_at_the_recipes_folder(tmp_path: Path) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text(f"{START}calibration: {{data: a.jsonl}}\nquality: {{data: /b.csv}}\n")
    recipe = load_recipe(file)
    assert recipe.calibration.data == str(tmp_path / "a.jsonl")
    assert recipe.quality.data == "/b.csv"


def test_a_fault_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text(f"{START}text: {{max: 1}}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    assert caught.value.message.startswith(f"{file}:3: unknown key 'text.max'")


def test_a_file_without_end_is_refused() -> None:
    """Only as much is read as a recipe may have."""
    zero = Path("/dev/zero")
    if not zero.is_char_device():
        pytest.skip("needs /dev/zero")
    with pytest.raises(RecipeError, match=r"/dev/zero has more than 1,048,576 bytes"):
        load_recipe(zero)


# The schema


def test_the_schema_describes_every_key() -> None:
    described = schema()
    sections = [described, *described["$defs"].values()]
    assert {section["title"] for section in sections} == {
        "Recipe",
        "Source",
        "Text",
        "Parity",
        "Calibration",
        "Quality",
        "Index",
    }
    for section in sections:
        assert section["additionalProperties"] is False
        for key, value in section["properties"].items():
            # A section's description is its own where both are the same.
            own = value.get("$ref", "").rpartition("/")[2]
            assert value.get("description") or described["$defs"][own]["description"], key
    json.dumps(described)


def test_the_schema_takes_a_bare_path_for_a_source() -> None:
    kinds = schema()["properties"]["source"]["anyOf"]
    assert {"type": "string"} in kinds


@pytest.mark.parametrize("task", TASKS)
def test_every_tasks_options_have_a_schema(task: str) -> None:
    described = options_schema(task_class(task).Options)
    assert described["properties"]
    assert described["additionalProperties"] is False


def test_every_backends_options_have_a_schema(fake_backend: Path) -> None:
    for entry in registry.entries():
        described = options_schema(registry.get(entry.name).Options)
        assert described["properties"], entry.name
        assert described["additionalProperties"] is False, entry.name


# Properties

_words = st.text(max_size=20)
_path = st.text(min_size=1, max_size=20)
_share = st.floats(0, 1)
_error = st.floats(0, 1e30, exclude_min=True)
_sources = st.one_of(
    st.builds(Source, path=_path),
    st.builds(Source, hub=_path, revision=st.from_regex(r"[0-9a-f]{40}", fullmatch=True)),
    st.builds(Source, onnx=_path, tokenizer=st.none() | _path),
)
_label_options = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.lists(_words, max_size=4),
        "multi_label": st.booleans(),
        # JSON writes 1e-05, which YAML takes for text; only the recipe's own keys expect that.
        "threshold": st.floats(1e-4, 1),
    },
)
_pooling_options = st.fixed_dictionaries(
    {}, optional={"pooling": st.sampled_from(["mean", "cls"]), "normalize": st.booleans()}
)
_tasks = st.one_of(
    st.tuples(st.none(), st.just({})),
    st.tuples(st.just("text-classification"), _label_options),
    st.tuples(st.just("feature-extraction"), _pooling_options),
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any valid recipe."""
    task, task_options = draw(_tasks)
    return Recipe(
        name=draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)),
        version=draw(st.from_regex(r"[0-9]+\.[0-9]+\.[0-9]+([+-][0-9A-Za-z.-]+)?", fullmatch=True)),
        description=draw(_words),
        license=draw(st.none() | _words),
        source=draw(st.none() | _sources),
        task=task,
        task_options=task_options,
        precision=draw(st.sampled_from(["auto", "fp32", "fp16", "bf16"])),
        text=draw(
            st.builds(
                Text,
                max_length=st.none() | st.integers(4, 2**63 - 1),
                on_long_text=st.sampled_from(["truncate", "refuse"]),
                max_characters=st.integers(1, 2**63 - 1),
            )
        ),
        parity=draw(
            st.builds(
                Parity,
                sample=st.lists(_words.filter(str.strip), max_size=3).map(tuple),
                max_error=st.none() | _error,
                mean_error=st.none() | _error,
                min_cosine=st.none() | _share,
                mean_cosine=st.none() | _share,
                equal_labels=st.none() | _share,
            )
        ),
        backends=draw(st.just({}) | st.just({"tensorrt": {"a": [1, "b", {"c": None}]}})),
    )


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(recipes(), st.booleans())
def test_a_recipe_written_as_yaml_is_read_as_itself(recipe: Recipe, short: bool) -> None:
    values = recipe.model_dump(mode="json", exclude_defaults=short)
    assert parse(yaml.safe_dump(values, sort_keys=short)) == recipe
    assert parse(json.dumps(values)) == recipe


def _parses_or_is_refused(data: str | bytes) -> None:
    """Nothing but a recipe, or an error whose every line names the file."""
    message = "r.yaml"
    try:
        parse(data)
    except RecipeError as error:
        message = error.message
    assert all(line.startswith("r.yaml") for line in message.split("\n")), message
    assert message.replace("\n", "").isprintable()


_FRAGMENTS = [
    *"{}[]:,-?&*!|>%@`\"'#\n \t\\~=<.0129eExX_+aU",
    *("name: x\n", "source: m\n", "text: ", "backends:\n", "  tensorrt: ", "  "),
    *("task: text-classification\n", "task_options: ", "parity: {max_error: "),
    *("!!int ", "!!float ", "!!bool ", "!!null ", "!!python/object:x ", "!!set ", "!!timestamp "),
    *("---\n", "...\n", "%YAML 1.", "%TAG ! ", "<<: ", "\\U", "\\x", "\\ud8", "1:2", "0x", "0b"),
    *("null", "yes", "1e5", ".inf", "2020-01-01", "\u2028", "\ufeff", "\x85", "\x00", "\ud800"),
]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(_FRAGMENTS), max_size=40).map("".join), st.booleans())
def test_any_bits_of_yaml_parse_or_are_refused(text: str, started: bool) -> None:
    _parses_or_is_refused(START + text if started else text)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200) | st.text(max_size=100), st.booleans())
def test_any_bytes_and_text_parse_or_are_refused(data: str | bytes, started: bool) -> None:
    if started:
        data = START + data if isinstance(data, str) else START.encode() + data
    _parses_or_is_refused(data)


_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=4)
)
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner)
    ),
    max_leaves=8,
)
_keys = st.sampled_from([*Recipe.model_fields]) | st.text(max_size=5)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(_keys, _values, max_size=8))
def test_any_values_parse_or_are_refused(values: dict[str, Any]) -> None:
    _parses_or_is_refused(yaml.safe_dump(values))


def test_a_threshold_that_is_no_probability_is_refused() -> None:
    (message,) = faults(f"{START}task: text-classification\ntask_options: {{threshold: 7}}\n")
    assert "threshold is 7" in message
    assert "from 0 to 1" in message


def test_a_sample_text_without_a_word_is_refused_with_its_line() -> None:
    (message,) = faults(f'{START}parity:\n  sample:\n    - fine\n    - " "\n')
    assert message.startswith("r.yaml:6: parity.sample.1 is ' '")


@pytest.mark.parametrize("threads", [0, -3])
def test_a_number_of_threads_that_is_none_is_refused(threads: int) -> None:
    if "openvino" not in {entry.name for entry in registry.entries()}:
        pytest.skip("the openvino backend is not installed here")
    (message,) = faults(f"{START}backends: {{openvino: {{threads: {threads}}}}}\n")
    assert f"threads is {threads}: it is a number from 1" in message
