"""JSON schemas with answers that are valid by them, and some that are not."""

from __future__ import annotations

import uuid
from typing import Any

OBJECT = {
    "type": "object",
    "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}},
    "required": ["b"],
}
NODE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["next"],
        }
    },
    "$ref": "#/$defs/node",
}
PREFIXED = {"prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": {"type": "integer"}}
TAGGED = {
    "oneOf": [
        {"properties": {"kind": {"const": "a"}}, "required": ["kind"], "type": "object"},
        {"properties": {"kind": {"const": "b"}}, "required": ["kind"], "type": "object"},
    ]
}

CASES: list[tuple[Any, list[str], list[str]]] = [
    ({"type": "null"}, ["null"], ["nul", "", "None", "true"]),
    ({"type": "boolean"}, ["true", "false"], ["True", "0", "truefalse"]),
    ({"type": "integer"}, ["0", "-7", "123"], ["01", "1.0", "--1", "1e3", "+1"]),
    ({"type": "number"}, ["0.5", "-1e-9", "3E+8"], ["01", "1.", ".5", "1e", "NaN", "1e999"]),
    ({"type": "string"}, ['""', '"é\\n\\u00e9\\/"'], ['"', '"\n"', '"\\x"', '"\\ud800"']),
    ({"type": ["integer", "null"]}, ["3", "null"], ["true", '"3"']),
    ({"type": "string", "maxLength": 2}, ['""', '"é漢"', '"\\n\\u0041"'], ['"abc"']),
    ({"type": "string", "minLength": 2}, ['"ab"', '"🙂🙂"'], ['"a"', '"\\n"']),
    ({"type": "string", "pattern": "^a+$"}, ['"a"', '"aaa"'], ['"ab"', '""', '"a\\n"']),
    ({"type": "string", "pattern": "a|^b"}, ['"xa"', '"bx"'], ['"xb"', '"B"']),
    ({"type": "string", "pattern": "^a*$", "maxLength": 1}, ['""', '"a"'], ['"aa"']),
    ({"type": "string", "pattern": '^["\n]$'}, ['"\\""', '"\\n"'], ['"n"', '"\\"\\n"']),
    (
        {"type": "string", "pattern": "^[A-Z][a-z]*$", "minLength": 2, "maxLength": 3},
        ['"Ab"', '"Abc"'],
        ['"A"', '"Abcd"', '"ab"'],
    ),
    (
        {"type": "string", "pattern": "^(a{2,}|[bc]{2}?)$", "maxLength": 3},
        ['"aa"', '"aaa"', '"bc"'],
        ['"aaaa"', '"b"'],
    ),
    (
        {"type": "string", "pattern": "^(ab)*$", "minLength": 3, "maxLength": 6},
        ['"abab"'],
        ['"ab"'],
    ),
    ({"enum": [1, "a", None, [2.5]]}, ["1", '"a"', "null", "[2.5]"], ["2", "a", "[]"]),
    ({"type": "string", "enum": ["a", 1]}, ['"a"'], ["1"]),
    ({"enum": [1, True], "const": True}, ["true"], ["1"]),
    ({"const": {"a": "é"}}, ['{"a":"é"}', '{"a": "é"}'], ["{}", '{"a":"e"}']),
    ({"type": "array"}, ["[]", '[1, {"a":[]}]'], ["[1 ,2]", "[,]", "[1,]", "[ ]"]),
    ({"items": {"type": "null"}, "minItems": 1}, ["[null]", "[null,null]"], ["[]", "[1]"]),
    ({"items": {"type": "null"}, "maxItems": 1}, ["[]", "[null]"], ["[null,null]"]),
    ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    (PREFIXED, ["[]", "[null]", "[null,true,1,2]"], ["[true]", "[null,true,null]"]),
    (PREFIXED | {"minItems": 3}, ["[null,true,1]"], ["[null,true]", "[]"]),
    (PREFIXED | {"maxItems": 1}, ["[]", "[null]"], ["[null,true]"]),
    (PREFIXED | {"items": False}, ["[null,true]"], ["[null,true,1]"]),
    (OBJECT, ['{"b":null}', '{"a":null,"b":null, "c": null}'], ["{}", '{"a":null}']),
    (OBJECT, [], ['{"b":null,"a":null}', '{"b":null,"b":null}', '{"b":null,"d":1}']),
    ({"type": "object"}, ["{}", '{"x":{"y":[1]}}'], ["{x:1}", '{"x"}', "{,}"]),
    ({"additionalProperties": {"type": "null"}}, ["{}", '{"q":null}'], ['{"q":1}']),
    ({"additionalProperties": False}, ["{}"], ['{"q":1}']),
    ({"required": ["z"]}, ['{"z":[]}'], ["{}", '{"y":1}']),
    ({"anyOf": [{"const": "ab"}, {"const": "abc"}]}, ['"ab"', '"abc"'], ['"a"']),
    ({"oneOf": [{"type": "null"}, {"const": 3}]}, ["null", "3"], ["4"]),
    (TAGGED, ['{"kind":"a"}', '{"kind":"b"}'], ['{"kind":"c"}', "{}"]),
    ({"allOf": [{"type": "null"}]}, ["null"], ["1"]),
    (NODE, ['{"next":null}', '{"next":{"next":null}}'], ["{}", '{"next":{}}']),
    ({"items": {"$ref": "#"}, "type": "array"}, ["[]", "[[],[[]]]"], ["[1]", "[[]"]),
    ({"type": "string", "format": "date"}, ['"2024-01-31"'], ['"2024-13-01"', '"2023-02-30"']),
    ({"type": "string", "format": "uuid"}, [f'"{uuid.UUID(int=7)}"'], ['"7"']),
    ({"type": "string", "format": "ipv4"}, ['"10.0.0.255"'], ['"10.0.0.256"', '"1.2.3"']),
    ({"type": "string", "format": "email"}, ['"a.b@c.de"'], ['"a@"', '"a b@c.de"']),
    ({"type": "string", "format": "time"}, ['"23:59:59Z"'], ['"24:00:00Z"', '"1:00"']),
    ({}, ["null", '{"a": [1, "x"]}'], ["", "x", "[1"]),
]
"""A schema, what may be given, and what may not."""
