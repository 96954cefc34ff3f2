"""The documents for machines: valid, complete, and true of what the server reads and writes."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema_rs import meta
from openapi_spec_validator import validate
from tornado.routing import PathMatches
from tornado.web import Application, RequestHandler

from archibald_rt.bodies import MAX_EMISSIONS
from archibald_rt.emissions import EmissionReader, check_type, check_user, instant_of
from archibald_rt.errors import CloseCode, EmissionError
from archibald_rt.events import Cursor, TransientTypes
from archibald_rt.shapes import CursorText, EventType, Timestamp, UserId
from archibald_rt.specs.__main__ import documents
from archibald_rt.specs.schemas import schemas_of
from archibald_rt.timestamps import Stamper
from described import ASYNCAPI, OPENAPI, component, message, validator
from eventstreams import Listening, listen
from support import Device, harness, token

DOCS = Path(__file__).parent.parent / "docs"
METHODS = ("get", "head", "post", "put", "patch", "delete", "options")


@pytest.mark.parametrize("name", documents())
def test_the_documents_kept_are_those_that_are_generated(name: str) -> None:
    assert (DOCS / name).read_bytes() == documents()[name], "run scripts/specs"


def test_the_openapi_document_is_valid() -> None:
    validate(OPENAPI)


def references(value: Any) -> Iterator[str]:
    """Yield every `$ref` in a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


@pytest.mark.parametrize("document", [OPENAPI, ASYNCAPI], ids=["openapi", "asyncapi"])
def test_every_reference_leads_somewhere_and_nothing_is_kept_for_none(
    document: dict[str, Any],
) -> None:
    found = set(references(document))
    for reference in found:
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    for kind in ("schemas", "messages", "responses"):
        for name in document["components"].get(kind, {}):
            assert f"#/components/{kind}/{name}" in found, name


def test_the_asyncapi_document_has_the_form_of_one() -> None:
    # What the reference parser (of npm) checks besides is nothing that changes by itself.
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert set(ASYNCAPI) <= {
        *("asyncapi", "info", "defaultContentType", "servers"),
        *("channels", "operations", "components"),
    }
    for name, channel in ASYNCAPI["channels"].items():
        at = f"#/channels/{name}"
        told: dict[str, set[str]] = {}
        for operation in ASYNCAPI["operations"].values():
            if operation["channel"]["$ref"] == at:
                told[operation["action"]] = {each["$ref"] for each in operation["messages"]}
        assert told["send"] | told.get("receive", set()) == {
            f"{at}/messages/{m}" for m in channel["messages"]
        }
        assert channel["address"].startswith("/")
        assert set(channel["x-close-codes"]) == {str(int(code)) for code in CloseCode}
    for described in ASYNCAPI["components"]["messages"].values():
        meta.validate(described["payload"])
    for schema in ASYNCAPI["components"]["schemas"].values():
        meta.validate(schema)


def routes(application: Application) -> dict[str, set[str]]:
    """Return the methods that are implemented for each route of an application."""
    found = {}
    for rule in application.wildcard_router.rules:
        assert isinstance(rule.matcher, PathMatches)
        target = rule.target
        assert isinstance(target, type)
        own = {m for m in METHODS if getattr(target, m) is not getattr(RequestHandler, m)}
        found[rule.matcher.regex.pattern] = own
    return found


@pytest.mark.gen_test
async def test_every_route_of_both_listeners_is_described_and_no_other(tmp_path: Path) -> None:
    served: dict[tuple[str, str], set[str]] = {}
    async with harness(tmp_path) as at:
        listeners = at.server._http  # type: ignore[attr-defined]  # noqa: SLF001 - routes are data
        for tag, listener in zip(("public", "internal"), listeners, strict=True):
            application = listener._application  # noqa: SLF001 - as above
            for pattern, methods in routes(application).items():
                served[tag, pattern] = methods
    described: dict[tuple[str, str], set[str]] = {}
    for path, item in OPENAPI["paths"].items():
        methods = set(item) & set(METHODS)
        (tag,) = {item[method]["tags"][0] for method in methods}
        assert tag in item["servers"][0]["variables"]
        pattern = re.sub(r"{\w+}", "[^/]*", path).replace(".", r"\.") + "$"
        described[tag, pattern] = methods
    assert described == served


@pytest.mark.gen_test
async def test_the_documents_are_served_to_those_who_may_read(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        for name, text in documents().items():
            for bearer in (
                at.settings.internal.emit_tokens[0],
                at.settings.internal.read_tokens[0],
            ):
                answer = await at.get(f"/internal/{name}", bearer=bearer)
                assert answer.code == 200
                assert answer.headers["Content-Type"] == "application/json"
                assert json.loads(answer.body) == json.loads(text)
            assert (await at.get(f"/internal/{name}", bearer=None)).code == 401
            assert (await at.get(f"/internal/{name}", public=True)).code == 404


class Witness:
    """Checks a device's messages by the kinds that are described for its dialect."""

    def __init__(self, dialect: str) -> None:
        listed = ASYNCAPI["operations"][f"{dialect}Send"]["messages"]
        names: list[str] = [each["$ref"].rpartition("/")[2] for each in listed]
        self._kinds = {name: message(name) for name in names}
        self.unseen = set(names)

    async def take(self, device: Device | Listening, count: int = 1) -> list[str]:
        """Return of which kinds the next messages are; each has to be of one and no other."""
        return [self._kind(await device.text()) for _ in range(count)]

    def _kind(self, text: str | None) -> str:
        assert text is not None
        value: Any = text if text == "pong" else json.loads(text)
        kinds = [name for name, kind in self._kinds.items() if kind.is_valid(value)]
        assert len(kinds) == 1, f"of the kinds {kinds}: {text}"
        (kind,) = kinds
        self.unseen.discard(kind)
        return kind


@pytest.mark.gen_test
async def test_every_message_the_server_sends_is_as_it_is_described(tmp_path: Path) -> None:
    v2, v1, sse = Witness("v2"), Witness("v1"), Witness("sse")
    event = {"userId": "u", "type": "A", "payload": {"big": 10**30}}
    async with AsyncExitStack() as devices:
        async with harness(tmp_path) as at:
            await at.emit([event, event])
            new = await devices.enter_async_context(await at.connect("u", lastEventId="earliest"))
            old = await devices.enter_async_context(await at.connect("u", v2=False))
            page = await devices.enter_async_context(await listen(at, "u", lastEventId="earliest"))
            assert await v2.take(new, 4) == ["welcome", "durable", "durable", "live"]
            assert await sse.take(page, 4) == ["welcome", "durable", "durable", "live"]
            await at.emit({**event, "durable": False})
            await at.emit(event)
            assert await v2.take(new, 2) == ["event", "durable"]
            assert await sse.take(page, 2) == ["event", "durable"]
            assert await v1.take(old, 2) == ["event", "event"]
            for witness, device in ((v2, new), (v1, old)):
                await device.send("ping")
                assert await witness.take(device) == ["pong"]
            for text in (token("u"), token("u", exp=2_000_000_000)):
                renewal = {"type": "rt.auth", "payload": {"token": text}}
                message("renewal").validate(renewal)
                await new.send(json.dumps(renewal))
                assert await v2.take(new) == ["renewed"]
            first = json.loads((await at.get("/internal/users/u/events")).body)["events"][0]["id"]
            assert (await at.delete("/internal/users/u/events")).code == 200
            for cursor in (first, "other:1", first.partition(":")[0] + ":99", "x" * 300):
                async with await at.connect("u", lastEventId=cursor) as device:
                    assert await v2.take(device, 3) == ["welcome", "gap", "live"]
                async with await listen(at, "u", lastEventId=cursor) as listening:
                    assert await sse.take(listening, 3) == ["welcome", "gap", "live"]
        assert await v2.take(new) == ["reconnect"]
        assert await sse.take(page, 2) == ["reconnect", "close"]
    assert v2.unseen == sse.unseen == set()
    assert v1.unseen == set()


texts = st.one_of(
    st.text(max_size=4),
    st.text(alphabet="rt.\0\n\x7f\x80\x9f é\U0001f600", max_size=6),
    st.builds(
        str.__mul__, st.sampled_from("xé\U0001f600"), st.sampled_from([127, 128, 129, 256, 257])
    ),
)
cursors = st.from_regex(r"\A[0-9a-z_é-]{0,3}:?[0-9٣]{0,21}\n?\Z") | texts
moments = st.one_of(
    st.from_regex(
        r"\A[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{0,10})?"
        r"([Zz]|[+-][0-2][0-9]:[0-6][0-9])?\n?\Z"
    ),
    st.datetimes().map(lambda at: at.isoformat() + "Z"),
)


def refuses(check: Callable[..., object], *values: object) -> bool:
    try:
        check(*values)
    except EmissionError:
        return True
    return False


def schema(of: Any) -> Any:
    """Return what checks a value by the schema of a type."""
    schemas, _ = schemas_of([of])
    return validator(schemas[of])


USER, TYPE, MOMENT, CURSOR = (
    schema(UserId),
    schema(EventType),
    schema(Timestamp),
    schema(CursorText),
)
MANY = settings(max_examples=400, derandomize=True)


@MANY
@given(text=texts)
@example(text="")
@example(text="a\n")
def test_the_schema_of_a_user_id_is_as_strict_as_its_check(text: str) -> None:
    assert USER.is_valid(text) is not refuses(check_user, "userId", text)


@MANY
@given(text=texts)
@example(text="rt.x")
@example(text="rtx")
@example(text="a\n")
def test_the_schema_of_a_type_is_as_strict_as_its_check(text: str) -> None:
    def check(value: str) -> None:
        check_type(value)
        if not 1 <= len(value) <= 128:
            raise EmissionError("")

    assert TYPE.is_valid(text) is not refuses(check, text)


@MANY
@given(text=moments)
@example(text="2024-02-29T00:00:00Z")
@example(text="2023-02-29T00:00:00Z")
@example(text="2016-12-31T23:59:60Z")
@example(text="2016-12-31T22:59:60-01:00")
@example(text="2016-12-31T22:59:60Z")
@example(text="0000-01-01T00:00:00Z")
@example(text="2024-01-01T24:00:00Z")
@example(text="2024-01-01T00:00:00.1234567890Z")
def test_the_schema_of_a_timestamp_is_as_strict_as_its_check(text: str) -> None:
    assert MOMENT.is_valid(text) is not refuses(instant_of, text)


@MANY
@given(text=cursors)
def test_the_schema_of_a_cursor_is_as_strict_as_its_check(text: str) -> None:
    assert CURSOR.is_valid(text) is (Cursor.parse(text) is not None)


names = st.sampled_from(["A", "rt.A", "a\n", "é", "", "x" * 128, "x" * 129])
keys = st.sampled_from(["k", "", "k\0", "x" * 200, "x" * 201])
odd: st.SearchStrategy[Any] = st.one_of(st.none(), st.integers(), st.booleans(), st.just([]))
emissions = st.fixed_dictionaries(
    {},
    optional={
        "userId": st.one_of(st.sampled_from(["u", "", "x" * 257, "a\0"]), odd),
        "userIds": st.one_of(
            st.lists(st.sampled_from(["u", "v", "w", "x", "a\0"]), max_size=3), odd
        ),
        "type": st.one_of(names, st.just("A"), odd),
        "payload": st.one_of(odd, st.just({"a": [1, 2.5]})),
        "timestamp": st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01", None, 5]),
        "durable": st.one_of(st.booleans(), odd),
        "key": st.one_of(keys, odd),
        "conflate": st.one_of(keys, odd),
        "other": odd,
    },
)
EMISSION, BROADCAST = component("EmissionBody"), component("BroadcastBody")


@settings(max_examples=2000, derandomize=True)
@given(body=emissions)
@example(body={"userId": "u", "type": "A", "durable": True, "conflate": "k"})
@example(body={"userId": "u", "type": "A", "durable": False, "key": "k"})
@example(body={"userId": "u", "userIds": ["v"], "type": "A"})
@example(body={"userIds": ["v", "v"], "type": "A"})
@example(body={"userIds": ["v", "w"], "type": "A", "key": "k"})
@example(body={"type": "A", "key": "k", "durable": True})
@example(body={"type": "A", "key": "k"})
@example(body={"type": "A", "conflate": "k"})
def test_the_schemas_of_emissions_are_as_strict_as_what_reads_them(body: dict[str, Any]) -> None:
    reader = EmissionReader(Stamper(), TransientTypes([]), max_event=0)
    data = json.dumps(body).encode()
    assert BROADCAST.is_valid(body) is not refuses(reader.read_broadcast, data)
    if EMISSION.is_valid(body) and "conflate" in body and "durable" not in body:
        # Whether it is durable is a matter of its type and the settings; here it always is.
        assert refuses(reader.read, data)
    else:
        assert EMISSION.is_valid(body) is not refuses(reader.read, data)


def test_the_schema_of_a_batch_has_its_bounds() -> None:
    media = OPENAPI["paths"]["/internal/emit"]["post"]["requestBody"]["content"]
    body = validator(media["application/json"]["schema"])
    one = {"userId": "u", "type": "A"}
    assert body.is_valid(one)
    assert body.is_valid([one] * MAX_EMISSIONS)
    assert not body.is_valid([one] * (MAX_EMISSIONS + 1))
    assert not body.is_valid([])
    assert not body.is_valid([one, {}])
