"""What the server writes about itself: ``logs``."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from archibald_rt.auth import TokenVerifier
from archibald_rt.auth.keys import secret_key
from archibald_rt.logs import configure
from support import SECRET, token

TOKEN = token("user-1")
OPAQUE = "an-emit-token-that-is-no-jwt"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave logging as it was found."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("aiosqlite").setLevel(logging.NOTSET)
    structlog.reset_defaults()


@pytest.fixture(params=["text", "json"])
def written(request: pytest.FixtureRequest) -> io.StringIO:
    stream = io.StringIO()
    configure(level="debug", log_format=request.param, stream=stream)
    return stream


def as_json(level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    configure(level=level, log_format="json", stream=stream)
    return stream


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def logger() -> Any:
    return structlog.stdlib.get_logger("archibald_rt.test")


@pytest.mark.parametrize(
    "text",
    [
        f"GET /ws/realtime?token={TOKEN}&lastEventId=earliest",
        f"/ws/realtime?a=1&token={OPAQUE}",
        f"?TOKEN={OPAQUE}",
        f"Authorization: Bearer {TOKEN}",
        f"authorization: bearer {OPAQUE}",
        f"Authorization: BEARER  {OPAQUE}",
        f"Sec-WebSocket-Protocol: archibald.v2, bearer.{TOKEN}",
        f'{{"type":"rt.auth","payload":{{"token":"{TOKEN}"}}}}',
        f"bare {TOKEN} in a line",
        f"cut short {TOKEN.rpartition('.')[0]}.",
        f"(token={OPAQUE})",
    ],
)
@pytest.mark.parametrize("where", ["event", "value", "foreign", "argument", "exception", "nested"])
def test_a_token_is_masked_wherever_it_stands(written: io.StringIO, where: str, text: str) -> None:
    if where == "event":
        logger().warning(text)
    elif where == "value":
        logger().warning("something", uri=text)
    elif where == "foreign":
        logging.getLogger("tornado.application").warning(text)
    elif where == "argument":
        logging.getLogger("tornado.application").warning("about %s, %r", text, text)
    elif where == "nested":
        logger().warning("something", headers={"a": [text]}, error=ValueError(text))
    else:
        try:
            raise ValueError(text)  # noqa: TRY301 - what is raised is what is looked for
        except ValueError:
            logger().exception("it failed")
            logging.getLogger("asyncio").exception("it failed")
    lines = written.getvalue()
    assert "***" in lines
    assert OPAQUE not in lines
    assert not any(part in lines for part in TOKEN.split("."))


def test_what_is_around_a_token_stays() -> None:
    stream = as_json()
    logger().info("x", uri=f"/ws?token={OPAQUE}&lastEventId=abc:1", quoted=f'"Bearer {OPAQUE}" x')
    logger().info("y", headers={"Authorization": [f"Bearer {OPAQUE}", 5, None]}, pair=(1, True))
    entry, nested = entries(stream)
    assert nested["headers"] == {"Authorization": ["Bearer ***", 5, None]}
    assert nested["pair"] == [1, True]
    assert entry["uri"] == "/ws?token=***&lastEventId=abc:1"
    assert entry["quoted"] == '"Bearer ***" x'


@pytest.mark.parametrize(
    "text", ["the token was refused", "bearers of news", "no token", "key: eyJ", "epoch abc:17"]
)
def test_what_is_no_token_is_not_masked(text: str) -> None:
    stream = as_json()
    logger().info(text)
    assert entries(stream)[0]["event"] == text


def test_the_reason_for_a_refusal_holds_no_token(written: io.StringIO) -> None:
    verifier = TokenVerifier([secret_key(SECRET[::-1])])
    with pytest.raises(Exception, match="refused") as caught:
        verifier.verify(TOKEN)
    logger().info("device refused", reason=str(caught.value))
    assert not any(part in written.getvalue() for part in TOKEN.split("."))


def test_an_entry_is_one_line_of_json_with_its_level_logger_and_time() -> None:
    stream = as_json()
    logger().warning("two\nlines", number=5, text="ä", flag=True)
    logging.getLogger("tornado.general").error("foreign %d", 7)
    first, second = entries(stream)
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "two\nlines",
        "level": "warning",
        "logger": "archibald_rt.test",
        "number": 5,
        "text": "ä",
        "flag": True,
    }
    assert (second["event"], second["level"], second["logger"]) == (
        "foreign 7",
        "error",
        "tornado.general",
    )


def test_a_traceback_is_written_with_the_entry(written: io.StringIO) -> None:
    try:
        raise ValueError("the cause")  # noqa: TRY301 - what is raised is what is looked for
    except ValueError:
        logger().exception("it failed")
    assert "Traceback" in written.getvalue()
    assert "ValueError: the cause" in written.getvalue()


def test_text_that_goes_to_no_terminal_has_no_colours() -> None:
    stream = io.StringIO()
    configure(level="info", log_format="text", stream=stream)
    logger().error("plain", number=5)
    assert "\x1b" not in stream.getvalue()
    assert "number=5" in stream.getvalue()


def test_what_is_below_the_level_is_not_written() -> None:
    stream = as_json("warning")
    logger().info("no")
    logging.getLogger("tornado").info("no")
    logger().warning("yes")
    assert [entry["event"] for entry in entries(stream)] == ["yes"]


def test_the_statements_of_the_log_are_never_written() -> None:
    stream = as_json("debug")
    logging.getLogger("aiosqlite").debug("INSERT payload")
    assert stream.getvalue() == ""


def test_configuring_again_replaces_what_was_set() -> None:
    first, second = as_json(), as_json()
    logger().info("once")
    assert first.getvalue() == ""
    assert len(entries(second)) == 1
