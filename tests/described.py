"""The documents of the interface, as tests check values against them."""

from typing import Any

from jsonschema_rs import Validator, validator_for

from archibald_rt.specs.asyncapi import asyncapi
from archibald_rt.specs.openapi import openapi

OPENAPI = openapi()
ASYNCAPI = asyncapi()


def validator(schema: Any, document: dict[str, Any] = OPENAPI) -> Validator:
    """Return what checks a value by a schema of a document, formats included."""
    components = {"components": document["components"]}
    return validator_for({**schema, **components}, validate_formats=True)


def component(name: str, document: dict[str, Any] = OPENAPI) -> Validator:
    """Return what checks a value by a named schema."""
    return validator({"$ref": f"#/components/schemas/{name}"}, document)


def message(name: str) -> Validator:
    """Return what checks a message by its name in the AsyncAPI document."""
    return validator(ASYNCAPI["components"]["messages"][name]["payload"], ASYNCAPI)
