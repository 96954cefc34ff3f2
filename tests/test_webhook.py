"""Devices' messages by POST: ``webhook``, with a receiver on a real socket."""

import asyncio
import hashlib
import hmac
import json
import re
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler
from tornado.websocket import websocket_connect

from archibald_rt import webhook
from archibald_rt.errors import ConfigError
from archibald_rt.protocol import type_of
from archibald_rt.reception import ClientMessage, Counters
from archibald_rt.webhook import CONCURRENCY, LARGEST_ANSWER, WAITING_OF_ONE, Webhook
from processes import environment
from support import PATIENCE, SECRET, Device, eventually, harness, settings_for, silenced, token

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

KEY = "a-webhook-secret-for-tests-of-thirty-two-bytes"

Answer = Callable[["Receiver", RequestHandler], Awaitable[None]]


class Receiver:
    """What a webhook posts to: keeps what comes, and answers as it is told."""

    def __init__(self, answer: Answer | None) -> None:
        self.url = ""
        self.requests: list[HTTPServerRequest] = []
        self.bodies: list[dict[str, Any]] = []
        self.under_way: list[str] = []
        self.most_at_once = 0
        self.gone = 0
        self.hold = asyncio.Event()
        self.answer = answer

    async def take(self, handler: RequestHandler) -> None:
        """Take a POST."""
        body = json.loads(handler.request.body)
        self.requests.append(handler.request)
        self.bodies.append(body)
        assert body["connection"] not in self.under_way
        self.under_way.append(body["connection"])
        self.most_at_once = max(self.most_at_once, len(self.under_way))
        try:
            if self.answer is not None:
                await self.answer(self, handler)
        finally:
            self.under_way.remove(body["connection"])

    @property
    def payloads(self) -> list[Any]:
        """What the messages that came had as their payload."""
        return [body["message"]["payload"] for body in self.bodies]


class Taking(RequestHandler):
    def initialize(self, receiver: Receiver) -> None:
        self._receiver = receiver

    async def post(self) -> None:
        await self._receiver.take(self)

    def on_connection_close(self) -> None:
        self._receiver.gone += 1


@asynccontextmanager
async def receiving(
    answer: Answer | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Run a receiver for the length of a block."""
    receiver = Receiver(answer)
    sock, port = bind_unused_port()
    application = Application(
        [(r"/.*", Taking, {"receiver": receiver})], log_function=lambda _: None
    )
    server = HTTPServer(application, ssl_options=tls)
    server.add_sockets([sock])
    receiver.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/hook?from=rt"
    try:
        yield receiver
    finally:
        receiver.hold.set()
        server.stop()
        await server.close_all_connections()


async def holding(receiver: Receiver, _handler: RequestHandler) -> None:
    """Answer when the test says so."""
    await receiver.hold.wait()


def status(code: int, **headers: str) -> Answer:
    async def answer(_receiver: Receiver, handler: RequestHandler) -> None:
        handler.set_status(code)
        for name, value in headers.items():
            handler.set_header(name, value)

    return answer


async def too_long(_receiver: Receiver, handler: RequestHandler) -> None:
    handler.write(b"x" * (LARGEST_ANSWER + 1))


async def hangs_up(_receiver: Receiver, handler: RequestHandler) -> None:
    handler.request.connection.stream.close()  # type: ignore[union-attr]  # an HTTP/1 connection


@asynccontextmanager
async def posting(url: str, within: float = 20) -> AsyncIterator[tuple[Webhook, Counters]]:
    counters = Counters()
    hook = Webhook(url, KEY, timeout=within, counters=counters)
    try:
        yield hook, counters
    finally:
        await hook.close()
        await hook.close()


def message(payload: object, connection: str = "c") -> ClientMessage:
    return ClientMessage("u", connection, json.dumps({"type": "a", "payload": payload}))


# What is posted


@pytest.mark.gen_test
async def test_a_message_is_posted_as_the_device_wrote_it_signed_and_with_an_id_of_its_own() -> (
    None
):
    text = '{ "type":"cancel" ,"payload":{"n":12345678901234567890, "f": 1.50,"s":"\\u00e9é"}}'
    began = int(time.time())
    async with receiving() as receiver, posting(receiver.url) as (hook, counters):
        hook.post(ClientMessage("üser", "c1", text))
        hook.post(ClientMessage("üser", "c1", text))
        await eventually(lambda: counters.posted == 2)
    request, other = receiver.requests
    assert f'"message":{text}}}'.encode() in request.body
    body = receiver.bodies[0]
    assert list(body) == ["id", "userId", "connection", "message"]
    assert (body["userId"], body["connection"]) == ("üser", "c1")
    assert body["id"] != receiver.bodies[1]["id"]
    assert (request.path, request.query) == ("/hook", "from=rt")
    assert request.headers["Content-Type"] == "application/json"
    stamp = request.headers["X-Archibald-Timestamp"]
    assert began <= int(stamp) <= time.time()
    digest = hmac.new(KEY.encode(), stamp.encode() + b"." + request.body, hashlib.sha256)
    assert request.headers["X-Archibald-Signature"] == f"sha256={digest.hexdigest()}"
    assert other.headers["X-Archibald-Signature"] != request.headers["X-Archibald-Signature"]


JSON_LIKE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


def refused(constant: str) -> object:
    raise ValueError(constant)


@given(JSON_LIKE, st.lists(st.tuples(st.floats(0, 1), st.characters()), max_size=2))
def test_only_valid_json_has_a_type_and_so_is_handed_to_a_hook(
    payload: object, edits: list[tuple[float, str]]
) -> None:
    text = json.dumps({"type": "a", "payload": payload})
    for place, character in edits:
        at = int(place * len(text))
        text = text[:at] + character + text[at:]
    if type_of(text) is not None:
        json.loads(text, parse_constant=refused)


# In which order, and how many at once


@pytest.mark.gen_test
async def test_of_one_connection_one_is_on_its_way_at_a_time_in_the_order_they_were_sent() -> None:
    async def takes_its_time(receiver: Receiver, _handler: RequestHandler) -> None:
        await asyncio.sleep(0 if len(receiver.bodies) % 3 else 0.005)

    async with receiving(takes_its_time) as receiver, posting(receiver.url) as (hook, counters):
        for number in range(WAITING_OF_ONE):
            for connection in ("a", "b", "c"):
                hook.post(message(number, connection))
        await eventually(lambda: counters.posted == 3 * WAITING_OF_ONE)
        for connection in ("a", "b", "c"):
            sent = [
                b["message"]["payload"] for b in receiver.bodies if b["connection"] == connection
            ]
            assert sent == list(range(WAITING_OF_ONE))
        assert receiver.most_at_once == 3


@pytest.mark.gen_test
async def test_connections_go_side_by_side_but_never_more_than_so_many() -> None:
    async with receiving(holding) as receiver, posting(receiver.url) as (hook, counters):
        for number in range(3 * CONCURRENCY):
            hook.post(message(number, f"c{number}"))
        await eventually(lambda: len(receiver.under_way) == CONCURRENCY)
        receiver.hold.set()
        await eventually(lambda: counters.posted == 3 * CONCURRENCY)
        assert receiver.most_at_once == CONCURRENCY


@pytest.mark.gen_test
async def test_who_sends_much_does_not_keep_another_waiting() -> None:
    may_end = asyncio.Semaphore(0)

    async def when_it_may(_receiver: Receiver, _handler: RequestHandler) -> None:
        await may_end.acquire()

    async with receiving(when_it_may) as receiver, posting(receiver.url) as (hook, counters):
        busy = [f"busy{number}" for number in range(CONCURRENCY)]
        for number in range(50):
            for connection in busy:
                hook.post(message(number, connection))
        await eventually(lambda: len(receiver.under_way) == CONCURRENCY)
        hook.post(message("mine", "quiet"))
        # One turn each, while the busy ones have 50.
        for ended in range(1, CONCURRENCY + 1):
            may_end.release()
            await eventually(lambda: len(receiver.bodies) == CONCURRENCY + ended)  # noqa: B023 - awaited at once
        assert "mine" in receiver.payloads
        for _ in range(50 * CONCURRENCY):
            may_end.release()
        await eventually(lambda: counters.posted == 50 * CONCURRENCY + 1)


# What fails


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(500), "answered 500"),
        (status(404), "answered 404"),
        (status(302, Location="http://127.0.0.1:1/elsewhere"), "answered 302"),
        (too_long, "HTTPStreamClosedError"),
        (hangs_up, "HTTPStreamClosedError"),
    ],
)
@pytest.mark.gen_test
async def test_what_is_not_taken_is_counted_and_logged_and_not_posted_again(
    answer: Answer, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with silenced("tornado.general"):
        async with receiving(answer) as receiver, posting(receiver.url) as (hook, counters):
            hook.post(message(1))
            await eventually(lambda: counters.post_failures == 1)
            receiver.answer = None
            hook.post(message(2))
            await eventually(lambda: counters.posted == 1)
            assert receiver.payloads == [1, 2]
    logged = "".join(capfd.readouterr())
    assert reason in logged
    assert "client messages not posted" in logged
    assert KEY not in logged


@pytest.mark.gen_test
async def test_a_receiver_that_takes_too_long_is_given_up() -> None:
    async with (
        receiving(holding) as receiver,
        posting(receiver.url, within=0.2) as (hook, counters),
    ):
        hook.post(message(1))
        await eventually(lambda: counters.post_failures == 1)
        receiver.hold.set()
        hook.post(message(2))
        await eventually(lambda: counters.posted == 1)


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "nowhere.invalid", "xn--\u00fc.invalid"])
@pytest.mark.gen_test
async def test_an_address_where_nobody_is_is_a_failure_like_any_other(host: str) -> None:
    sock, port = bind_unused_port()
    sock.close()
    async with posting(f"http://{host.format(port=port)}/hook") as (hook, counters):
        for number in range(5):
            hook.post(message(number))
        await eventually(lambda: counters.post_failures == 5)


@pytest.mark.gen_test
async def test_a_flood_of_failures_is_a_line_or_two_in_the_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with receiving(status(503)) as receiver, posting(receiver.url) as (hook, counters):
        for number in range(40):
            hook.post(message(number))
        await eventually(lambda: counters.post_failures == 40)
    lines = "".join(capfd.readouterr()).splitlines()
    assert ["count=1 " in line for line in lines if "not posted" in line] == [True, False]


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return the side of a server whose certificate nobody has vouched for."""
    made = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(tz=UTC)
    certificate = (
        x509.CertificateBuilder(name, name, made.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(made, hashes.SHA256())
    )
    encoding, encryption = serialization.Encoding.PEM, serialization.NoEncryption()
    key = made.private_bytes(encoding, serialization.PrivateFormat.PKCS8, encryption)
    file = folder / "server.pem"
    file.write_bytes(key + certificate.public_bytes(encoding))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(file)
    return tls


@pytest.mark.gen_test
async def test_nothing_is_posted_to_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    tls = self_signed(tmp_path)
    with silenced("tornado.general"):
        async with AsyncExitStack() as stack:
            receiver = await stack.enter_async_context(receiving(tls=tls))
            url = receiver.url.replace("127.0.0.1", "localhost")
            hook, counters = await stack.enter_async_context(posting(url))
            hook.post(message(1))
            await eventually(lambda: counters.post_failures == 1)
            assert receiver.requests == []


# What finds no room, and the end


@pytest.mark.gen_test
async def test_one_connection_may_have_so_many_waiting_and_others_are_not_held_up() -> None:
    async with receiving(holding) as receiver, posting(receiver.url) as (hook, counters):
        hook.post(message(0))
        await eventually(lambda: receiver.under_way)
        for number in range(1, WAITING_OF_ONE + 11):
            hook.post(message(number))
        hook.post(message("other", "d"))
        assert counters.messages_dropped == 10
        receiver.hold.set()
        await eventually(lambda: counters.posted == WAITING_OF_ONE + 2)
        assert sorted(receiver.payloads, key=str) == sorted(
            [*range(WAITING_OF_ONE + 1), "other"], key=str
        )


@pytest.mark.gen_test
async def test_all_together_may_have_so_many_bytes_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "WAITING_BYTES", 100_000)
    async with receiving(holding) as receiver, posting(receiver.url) as (hook, counters):
        for number in range(100):
            hook.post(message("x" * 9_000, f"c{number}"))
        assert counters.messages_dropped == 90
        receiver.hold.set()
        await eventually(lambda: counters.posted == 10)
        # What was counted is given back.
        for number in range(10):
            hook.post(message("x" * 9_000, f"c{number}"))
        assert counters.messages_dropped == 90


@pytest.mark.gen_test
async def test_at_the_end_what_is_under_way_has_a_moment(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(webhook, "GOODBYE", 20)
    async with receiving(holding) as receiver:
        async with posting(receiver.url) as (hook, counters):
            for number in range(10):
                hook.post(message(number))
            await eventually(lambda: receiver.under_way)
            receiver.hold.set()
        assert counters.posted == 10
        hook.post(message("late"))
        assert counters.messages_dropped == 1
        assert "late" not in receiver.payloads
    assert "given up" not in "".join(capfd.readouterr())


@pytest.mark.gen_test
async def test_what_is_left_at_the_end_is_dropped_and_said(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(webhook, "GOODBYE", 0.1)
    async with receiving(holding) as receiver:
        async with posting(receiver.url, within=0.5) as (hook, counters):
            for number in range(10):
                hook.post(message(number, f"c{number % 3}"))
            await eventually(lambda: len(receiver.under_way) == 3)
        assert counters.messages_dropped == 10
        assert len(receiver.bodies) == 3
        # The client hangs up when its time is over, of which nobody is to hear any more.
        await eventually(lambda: receiver.gone == 3)
    assert not caplog.records
    assert "given up at the end" in (logged := "".join(capfd.readouterr()))
    assert "count=10" in logged


# At a server


def served(url: str, **more: str) -> dict[str, str]:
    return {"client_messages.webhook_url": url, "client_messages.webhook_secret": KEY, **more}


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.gen_test
async def test_a_device_that_sends_a_message_has_it_posted_whatever_it_speaks(
    tmp_path: Path, *, v2: bool
) -> None:
    taken: list[ClientMessage] = []
    async with receiving() as receiver:
        async with harness(tmp_path, served(receiver.url), on_message=taken.append) as server:
            async with await server.connect("ada", v2=v2) as device:
                for text in ("ping", "[]", '{"type":"a","payload":1}', '{"type":"a","payload":2}'):
                    await device.send(text)
                await eventually(lambda: len(receiver.bodies) == 2)
                (connection,) = json.loads((await server.get("/internal/connections")).body)[
                    "connections"
                ]
            assert receiver.payloads == [1, 2]
            assert {body["userId"] for body in receiver.bodies} == {"ada"}
            assert receiver.bodies[0]["connection"] == connection["connection"]
            # A function of an embedding application gets them as well.
            assert [json.loads(each.message)["payload"] for each in taken] == [1, 2]
            await eventually(lambda: posted(server, {"posted": 2, "failed": 0, "dropped": 0}))


async def posted(server: Any, figures: dict[str, int]) -> bool:
    return bool((await server.stats())["webhook"] == figures)


@pytest.mark.gen_test
async def test_a_receiver_that_fails_or_hangs_does_the_connection_no_harm(tmp_path: Path) -> None:
    async with receiving(holding) as receiver:
        async with harness(tmp_path, served(receiver.url)) as server:
            async with await server.connect("u", v2=False) as device:
                await device.send('{"type":"a","payload":1}')
                await eventually(lambda: receiver.under_way)
                for number in range(5):
                    await device.send(json.dumps({"type": "a", "payload": number}))
                await device.send("ping")
                assert await device.text() == "pong"
                await answered(server, device)
                receiver.answer = status(500)
                receiver.hold.set()
                await eventually(lambda: posted(server, {"posted": 1, "failed": 5, "dropped": 0}))
                await answered(server, device)


async def answered(server: Any, device: Device) -> None:
    await server.emit({"userId": "u", "type": "SENTINEL"})
    assert (await device.next())["type"] == "SENTINEL"


@pytest.mark.gen_test
async def test_what_a_device_sent_before_it_left_is_posted_still(tmp_path: Path) -> None:
    async with receiving() as receiver, harness(tmp_path, served(receiver.url)) as server:
        async with await server.connect("u") as device:
            for number in range(20):
                await device.send(json.dumps({"type": "a", "payload": number}))
        await asyncio.wait_for(
            eventually(lambda: receiver.payloads == list(range(20))), PATIENCE.total_seconds()
        )


@pytest.mark.parametrize("secret", [None, "short"])
@pytest.mark.gen_test
async def test_no_server_starts_that_would_post_without_a_good_secret(
    tmp_path: Path, secret: str | None
) -> None:
    overrides = {"client_messages.webhook_url": "http://127.0.0.1:1/"}
    if secret is not None:
        overrides["client_messages.webhook_secret"] = secret
    settings_for(tmp_path, overrides)
    with pytest.raises(ConfigError, match="webhook_secret") as caught:
        async with harness(tmp_path, overrides):
            pass
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


# What the page tells receivers


def recipe(language: str, begins: str) -> str:
    """Return the code block of ``docs/protocol.md`` that begins like this."""
    page = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(begins)]
    return found


async def one_post() -> tuple[dict[str, str], bytes]:
    async with receiving() as receiver, posting(receiver.url) as (hook, counters):
        hook.post(message("é"))
        await eventually(lambda: counters.posted == 1)
    (request,) = receiver.requests
    return dict(request.headers), request.body


def forged(headers: dict[str, str], body: bytes) -> list[tuple[dict[str, str], bytes, str]]:
    """Return what a receiver has to refuse."""
    stamp = int(headers["X-Archibald-Timestamp"])
    old = str(stamp - 301)
    digest = hmac.new(KEY.encode(), old.encode() + b"." + body, hashlib.sha256).hexdigest()
    return [
        (headers, body + b" ", KEY),
        (headers, body, KEY + "x"),
        (headers | {"X-Archibald-Timestamp": str(stamp + 1)}, body, KEY),
        (headers | {"X-Archibald-Signature": "sha256="}, body, KEY),
        (headers | {"X-Archibald-Signature": "sha256=é"}, body, KEY),
        (
            headers | {"X-Archibald-Timestamp": old, "X-Archibald-Signature": f"sha256={digest}"},
            body,
            KEY,
        ),
    ]


@pytest.mark.gen_test
async def test_the_recipe_in_python_knows_what_is_genuine() -> None:
    headers, body = await one_post()
    names: dict[str, Any] = {}
    exec(recipe("python", "import hashlib"), names)  # noqa: S102 - a page of ours
    assert names["is_genuine"](headers, body, KEY)
    for case in forged(headers, body):
        assert not names["is_genuine"](*case), case


@pytest.mark.needs("node")
@pytest.mark.gen_test
async def test_the_recipe_in_node_knows_what_is_genuine(tmp_path: Path) -> None:
    headers, body = await one_post()
    cases = [
        [{name.lower(): text for name, text in each.items()}, content.decode(), secret]
        for each, content, secret in [(headers, body, KEY), *forged(headers, body)]
    ]
    (tmp_path / "recipe.mjs").write_text(recipe("js", "import { createHmac"))
    (tmp_path / "cases.mjs").write_text(
        'import { isGenuine } from "./recipe.mjs";\n'
        f"const cases = {json.dumps(cases)};\n"
        "const said = cases.map(([h, b, s]) => isGenuine(h, Buffer.from(b), s));\n"
        "console.log(JSON.stringify(said));\n"
    )
    process = await asyncio.create_subprocess_exec(
        "node", str(tmp_path / "cases.mjs"), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await asyncio.wait_for(process.communicate(), PATIENCE.total_seconds())
    assert json.loads(printed) == [True] + [False] * (len(cases) - 1)


@pytest.mark.gen_test
async def test_the_example_of_an_embedding_application_takes_messages(tmp_path: Path) -> None:
    example = tmp_path / "example.py"
    example.write_text(recipe("python", "import asyncio"))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(example),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = asyncio.wait_for(process.stdout.readline(), PATIENCE.total_seconds())
        public = (await line).decode().strip()
        url = f"{public.replace('http', 'ws', 1)}/ws/realtime?token={token('ada')}"
        device = Device(await websocket_connect(url))
        await device.send('{"type":"cancel","payload":{"jobId":"7"}}')
        line = asyncio.wait_for(process.stdout.readline(), PATIENCE.total_seconds())
        assert await line == b"ada cancel\n"
        device.drop()
    finally:
        process.kill()
        await process.communicate()
