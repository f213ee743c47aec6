"""JSON Schema, as much of it as the schemas here use; a keyword that is not known is an error, so that none is passed over."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
}
_ANNOTATIONS = {"$schema", "$defs", "title"}


def errors(value: Any, schema: Schema, *, whole: Schema | None = None, where: str = "$") -> Iterator[str]:
    """What is wrong with `value`, each with its place.

    Raises:
        KeyError: a keyword is not known.
    """
    whole = schema if whole is None else whole
    for keyword, wanted in schema.items():
        if keyword in _ANNOTATIONS:
            continue
        if keyword == "$ref":
            yield from errors(value, whole["$defs"][wanted.removeprefix("#/$defs/")], whole=whole, where=where)
        elif keyword in _INSIDE:
            for key, inner, inner_schema in _INSIDE[keyword](value, wanted):
                yield from errors(inner, inner_schema, whole=whole, where=f"{where}.{key}")
        elif keyword == "anyOf":
            tried = [list(errors(value, one, whole=whole, where=where)) for one in wanted]
            if all(tried):
                yield f"{where} fits none of anyOf: {tried}"
        elif not _HOLDS[keyword](value, wanted, schema):
            yield f"{where} is {value!r}, against {keyword} {wanted!r}"


def _properties(value: Any, wanted: Mapping[str, Schema]) -> Iterator[tuple[str, Any, Schema]]:
    if isinstance(value, dict):
        yield from ((key, value[key], schema) for key, schema in wanted.items() if key in value)


def _items(value: Any, wanted: Schema) -> Iterator[tuple[str, Any, Schema]]:
    if isinstance(value, list):
        yield from ((str(index), inner, wanted) for index, inner in enumerate(value))


_INSIDE: dict[str, Callable[[Any, Any], Iterator[tuple[str, Any, Schema]]]] = {"properties": _properties, "items": _items}

_HOLDS: dict[str, Callable[[Any, Any, Schema], bool]] = {
    "type": lambda value, wanted, _: any(_TYPES[name](value) for name in ([wanted] if isinstance(wanted, str) else wanted)),
    "const": lambda value, wanted, _: type(value) is type(wanted) and value == wanted,
    "enum": lambda value, wanted, _: any(type(value) is type(one) and value == one for one in wanted),
    "required": lambda value, wanted, _: not isinstance(value, dict) or set(wanted) <= value.keys(),
    "additionalProperties": lambda value, wanted, schema: (
        wanted is not False or not isinstance(value, dict) or value.keys() <= schema.get("properties", {}).keys()
    ),
    "pattern": lambda value, wanted, _: not isinstance(value, str) or re.search(wanted, value) is not None,
    "minLength": lambda value, wanted, _: not isinstance(value, str) or len(value) >= wanted,
    "minimum": lambda value, wanted, _: not _TYPES["number"](value) or value >= wanted,
}
