"""The OpenAPI 3.1 document of both listeners."""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from archibald_rt import __version__
from archibald_rt.answers import Problem
from archibald_rt.specs.operations import (
    EMIT,
    INTERNAL,
    OF_INTERNAL,
    OPERATIONS,
    PROBLEM,
    PUBLIC,
    READ,
    USER,
    USER_IN_QUERY,
    Answer,
    Operation,
    Parameter,
)
from archibald_rt.specs.schemas import Schema, schemas_of

_LISTENERS = {
    INTERNAL: ("127.0.0.1:8081", "Where back ends emit and operators look."),
    PUBLIC: ("127.0.0.1:8080", "Where devices connect and balancers ask."),
}
_PHRASES = {413: "Content Too Large"}
_PROBLEMS = {
    400: "Something is malformed; `field` names it.",
    401: "The token is missing or wrong.",
    403: "Who asks may not: the token has not the role, or the page not the origin.",
    404: "There is nothing of this name.",
    409: "A key was used before for something else; `indexes` has the places in a batch.",
    413: "An event, the body or the number of emissions is too large.",
    415: "Another type, charset or encoding than is read here.",
    426: "Another version of the WebSocket protocol than 13.",
    500: "A fault of the server.",
    503: "Not now; nothing was done.",
    504: "`outcome-unknown`: what was asked for may have been done, or not. With several servers"
    " `key`, or `keys` in the order of the results, names what to try emissions again with.",
}
_HEADERS = {
    401: ("WWW-Authenticate", "What is expected: `Bearer`."),
    426: ("Sec-WebSocket-Version", "The version that is spoken."),
    503: ("Retry-After", "After how many seconds to ask again."),
}
_ONE_LINE = "A JSON Web Token of a user, at most 8 KiB."
_SECURITY = {
    EMIT: {"type": "http", "scheme": "bearer", "description": "One of `[internal] emit_tokens`."},
    READ: {"type": "http", "scheme": "bearer", "description": "One of `[internal] read_tokens`."},
    USER: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": _ONE_LINE},
    USER_IN_QUERY: {"type": "apiKey", "in": "query", "name": "token", "description": _ONE_LINE},
}
_ABOUT = """\
Real-time job events for the users of web applications: committed before they are delivered.

Limits are those of the default settings; `docs/protocol.md` says all of it in words, and
`/internal/asyncapi.json` describes the messages of the WebSocket."""


def openapi(operations: Sequence[Operation] = OPERATIONS) -> dict[str, Any]:
    """Return the document, ready to be written as JSON."""
    schemas, named = schemas_of(list(dict.fromkeys(_types(operations))))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        item = paths.setdefault(operation.path, {"servers": [_server(operation.listener)]})
        item[operation.method] = _operation(operation, schemas)
    statuses = sorted({status for each in operations for status in _problems(each)})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "archibald_rt",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [_server(INTERNAL)],
        "tags": [{"name": name, "description": text} for name, (_, text) in _LISTENERS.items()],
        "paths": paths,
        "components": {
            "schemas": named,
            "responses": {f"Problem{status}": _problem(status, schemas) for status in statuses},
            "securitySchemes": _SECURITY,
        },
    }


def _types(operations: Sequence[Operation]) -> Iterable[Any]:
    yield Problem
    for operation in operations:
        for types in operation.body.values():
            yield from types
        for answer in operation.answers.values():
            yield from answer.types
        for parameter in operation.parameters:
            yield parameter.type


def _server(listener: str) -> dict[str, Any]:
    address, description = _LISTENERS[listener]
    return {
        "url": f"{{scheme}}://{{{listener}}}",
        "description": description,
        "variables": {
            "scheme": {"default": "http", "enum": ["http", "https"]},
            listener: {"default": address, "description": "Host and port."},
        },
    }


def _problems(operation: Operation) -> list[int]:
    """Return the statuses of an operation's problem documents that need no words of their own."""
    public = operation.listener == PUBLIC or not operation.tokens
    common = () if public else OF_INTERNAL
    return sorted({*common, *operation.problems})


def _operation(operation: Operation, schemas: dict[Any, Schema]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.listener],
        "security": [{name: []} for name in operation.tokens],
    }
    if operation.parameters:
        described["parameters"] = [_parameter(each, schemas) for each in operation.parameters]
    if operation.body:
        content = {name: _media(types, schemas) for name, types in operation.body.items()}
        described["requestBody"] = {"required": operation.body_needed, "content": content}
    answers = {str(status): _answer(each, schemas) for status, each in operation.answers.items()}
    for status in _problems(operation):
        answers[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    described["responses"] = dict(sorted(answers.items()))
    return described


def _parameter(parameter: Parameter, schemas: dict[Any, Schema]) -> dict[str, Any]:
    schema = dict(schemas[parameter.type])
    if parameter.default is not None:
        schema["default"] = parameter.default
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.where == "path",
        "description": parameter.description,
        "schema": schema,
    }


def _answer(answer: Answer, schemas: dict[Any, Schema]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.types:
        described["content"] = {answer.media_type: _media(answer.types, schemas)}
    return described


def _media(types: Sequence[Any], schemas: dict[Any, Schema]) -> dict[str, Any]:
    """Return what a body is: of the one type, or of any one of them."""
    each = [schemas[one] for one in types]
    return {"schema": each[0] if len(each) == 1 else {"anyOf": each}}


def _problem(status: int, schemas: dict[Any, Schema]) -> dict[str, Any]:
    # Python's phrases changed with RFC 9110; the document is to be the same with all of them.
    phrase = _PHRASES.get(status, HTTPStatus(status).phrase)
    described: dict[str, Any] = {"description": f"{phrase}. {_PROBLEMS[status]}"}
    if status in _HEADERS:
        name, text = _HEADERS[status]
        described["headers"] = {name: {"description": text, "schema": {"type": "string"}}}
    described["content"] = {PROBLEM: {"schema": schemas[Problem]}}
    return described
