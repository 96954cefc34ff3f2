"""JSON Schemas (2020-12) of the types of `bodies`, `answers` and `messages`."""

import inspect
from collections.abc import Sequence
from typing import Any

import msgspec

from archibald_rt.bodies import BroadcastBody, EmissionBody

Schema = dict[str, Any]

REFERENCE = "#/components/schemas/{name}"
"""Where a document keeps its schemas."""

_DURABLE: Schema = {"properties": {"durable": {"const": True}}}
_TRANSIENT: Schema = {"properties": {"durable": {"const": False}}}

# What holds between the keys of one object, which no type can say; `emissions` checks it.
_RULES: dict[str, Schema] = {
    # A broadcast is transient unless it says otherwise.
    BroadcastBody.__name__: {
        "dependentSchemas": {"key": {"required": ["durable"], **_DURABLE}, "conflate": _TRANSIENT}
    },
    # What one to users is unless it says so depends on `[events] transient`.
    EmissionBody.__name__: {
        "oneOf": [{"required": ["userId"]}, {"required": ["userIds"]}],
        "dependentSchemas": {"key": _DURABLE, "conflate": _TRANSIENT},
    },
}


def schemas_of(types: Sequence[Any]) -> tuple[dict[Any, Schema], dict[str, Schema]]:
    """Return each type's schema, and by their names those that these refer to."""
    schemas, named = msgspec.json.schema_components(types, ref_template=REFERENCE)
    for name in _RULES.keys() & named:
        named[name] |= _RULES[name]
    for schema in named.values():
        if "description" in schema:
            # Python 3.13 takes the indentation off by itself.
            schema["description"] = inspect.cleandoc(schema["description"])
    return dict(zip(types, schemas, strict=True)), dict(sorted(named.items()))
