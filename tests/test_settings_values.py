"""How single settings are written: ``settings.values`` and ``settings.kinds``."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archibald_rt.settings import kinds
from archibald_rt.settings.schema import KEYS, Key

DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
SIZE_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def refuses(parse: Callable[[str], object], text: str) -> bool:
    """Whether parsing raises ValueError; its message is nobody's business."""
    try:
        parse(text)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("12h", 43200), ("7d", 604800), ("500ms", 0.5), ("0", 0), ("0s", 0)],
)
def test_a_duration_becomes_seconds(text: str, seconds: float) -> None:
    assert kinds.DURATION.parse(text) == seconds


@pytest.mark.parametrize(
    "text", ["30", "", "1.5s", "-1s", "+1s", "1_0s", "30S", "s", "1s 2s", "٣s", "99999999999d"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    assert refuses(kinds.DURATION.parse, text)


@given(st.integers(0, 36500), st.sampled_from(sorted(DURATION_UNITS)))
def test_every_duration_is_shown_so_that_it_parses_back(number: int, unit: str) -> None:
    seconds = kinds.DURATION.parse(f"{number}{unit}")
    assert seconds == pytest.approx(number * DURATION_UNITS[unit])
    assert kinds.DURATION.parse(kinds.DURATION.show(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KiB", 65536), ("1 MiB", 2**20), ("1GiB", 2**30), ("1gib", 2**30), ("1000", 1000)],
)
def test_a_size_becomes_bytes(text: str, size: int) -> None:
    assert kinds.SIZE.parse(text) == size


@pytest.mark.parametrize("text", ["64KB", "64k", "", "-1", "1.5MiB", "KiB", "9999999999999TiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    assert refuses(kinds.SIZE.parse, text)


@given(st.integers(0, 2**20), st.sampled_from(sorted(SIZE_UNITS)))
def test_every_size_is_shown_so_that_it_parses_back(number: int, unit: str) -> None:
    size = kinds.SIZE.parse(f"{number}{unit}")
    assert size == number * SIZE_UNITS[unit]
    assert kinds.SIZE.parse(kinds.SIZE.show(size)) == size


@pytest.mark.parametrize(("text", "mode"), [("0660", 0o660), ("600", 0o600), ("0o777", 0o777)])
def test_a_mode_is_octal(text: str, mode: int) -> None:
    assert kinds.MODE.parse(text) == mode


@pytest.mark.parametrize("text", ["0668", "1777", "rw", "", "66"])
def test_what_is_no_mode_is_refused(text: str) -> None:
    assert refuses(kinds.MODE.parse, text)


@pytest.mark.parametrize("text", ["true", "Yes", "ON", "1"])
def test_a_boolean_can_say_yes_in_several_ways(text: str) -> None:
    assert kinds.BOOLEAN.parse(text) is True


@pytest.mark.parametrize("text", ["false", "No", "off", "0"])
def test_a_boolean_can_say_no_in_several_ways(text: str) -> None:
    assert kinds.BOOLEAN.parse(text) is False


@pytest.mark.parametrize("text", ["", "maybe", "2"])
def test_what_is_no_boolean_is_refused(text: str) -> None:
    assert refuses(kinds.BOOLEAN.parse, text)


@pytest.mark.parametrize("text", ["65536", "-1", "80a", "", "8 0", "0x50", "²"])
def test_what_is_no_port_is_refused(text: str) -> None:
    assert refuses(kinds.PORT.parse, text)


@pytest.mark.parametrize("text", ["::1", "::", "0.0.0.0", "localhost", "my_service.example"])  # noqa: S104 - text, nothing listens there
def test_a_host_is_a_name_or_an_address(text: str) -> None:
    assert kinds.HOST.parse(f" {text} ") == text


@pytest.mark.parametrize("text", ["", "a b", "[::1]", "localhost:80", "http://a", "a\nb"])
def test_what_is_no_host_is_refused(text: str) -> None:
    assert refuses(kinds.HOST.parse, text)


@pytest.mark.parametrize("text", ["a, b", "a\nb", "a,\n b,", "\n\n a , ,b\r\n"])
def test_a_list_is_split_at_commas_and_lines(text: str) -> None:
    assert kinds.SECRETS.parse(text) == ("a", "b")


def test_an_empty_list_is_empty_unless_something_is_needed() -> None:
    assert KEYS["events"]["transient"].parse("") == ()
    assert refuses(KEYS["auth"]["algorithms"].parse, " , ")


def test_algorithms_are_known_in_any_case_and_none_is_not_one() -> None:
    assert KEYS["auth"]["algorithms"].parse("hs256, eddsa") == ("HS256", "EdDSA")
    assert refuses(KEYS["auth"]["algorithms"].parse, "HS256, none")


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://App.Example.com", "https://app.example.com"),
        ("https://*.Example.com", "https://*.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://localhost:03000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("*", "*"),
        ("null", "null"),
    ],
)
def test_an_origin_becomes_what_browsers_send(text: str, origin: str) -> None:
    assert kinds.ORIGINS.parse(text) == (origin,)


@pytest.mark.parametrize(
    "text",
    [
        "app.example.com",
        "https://a.*.b",
        "https://*a",
        "https://a/",
        "https://a/b",
        "https://u@a",
        "https://a:99999",
    ],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    assert refuses(kinds.ORIGINS.parse, text)


@pytest.mark.parametrize(
    "text", ["ftp://a", "https://", "a", "https://a b", "https://a:x", "https://a:0", ""]
)
def test_what_is_no_web_address_is_refused(text: str) -> None:
    assert refuses(KEYS["client_messages"]["webhook_url"].kind.parse, text)


def test_a_password_in_an_address_is_masked() -> None:
    key = KEYS["nats"]["servers"]
    assert key.show(key.parse("nats://u:p@a:1, tls://b")) == "nats://***@a:1, tls://b"


def test_a_public_key_keeps_its_lines_and_a_private_one_is_refused() -> None:
    key = KEYS["auth"]["jwt_public_key"]
    pem = "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----"
    assert key.parse(pem.replace("\n", "\n    ") + "\n") == pem
    assert refuses(key.parse, pem.replace("PUBLIC", "PRIVATE"))
    assert key.parse(f"{pem}\n\n  {pem}\n") == f"{pem}\n{pem}"
    assert refuses(key.parse, f"{pem}\n{pem.replace('PUBLIC', 'PRIVATE')}\n{pem}")


def test_a_socket_path_must_fit_the_system() -> None:
    assert str(kinds.SOCKET_PATH.parse("/" + 106 * "a")) == "/" + 106 * "a"
    assert refuses(kinds.SOCKET_PATH.parse, "/" + 107 * "a")


def test_networks_and_addresses_are_checked() -> None:
    assert kinds.NETWORKS.parse("127.0.0.1, 10.0.0.0/8, ::1") == ("127.0.0.1", "10.0.0.0/8", "::1")
    assert refuses(kinds.NETWORKS.parse, "proxy.local")


@pytest.mark.parametrize("text", ["a\x00b", "a\x07", "a\x85b", "a\u2028b", "a\udcffb"])
def test_control_characters_are_refused_in_texts_paths_lists_and_secrets(text: str) -> None:
    several: tuple[kinds.Kind[Any], ...] = (kinds.TEXT, kinds.PATH, kinds.SECRETS, kinds.SECRET)
    for kind in several:
        assert refuses(kind.parse, text)


def test_a_single_secret_keeps_its_white_space() -> None:
    assert kinds.SECRET.parse(" a secret ") == " a secret "


def test_secrets_may_be_any_text_and_are_masked() -> None:
    assert kinds.SECRETS.parse("schlüssel, ключ") == ("schlüssel", "ключ")
    assert kinds.SECRETS.show(("a", "b")) == "***"
    assert kinds.SECRETS.show(()) == ""


ALL_KEYS = [key for keys in KEYS.values() for key in keys.values()]


@given(st.sampled_from(ALL_KEYS), st.text())
def test_any_text_is_a_value_that_can_be_shown_and_parsed_back_or_is_refused(
    key: Key, text: str
) -> None:
    try:
        value: Any = key.parse(text)
    except ValueError:
        return
    if not key.kind.private:
        assert key.parse(key.show(value)) == value


@given(st.lists(st.text(min_size=1)))
def test_lists_of_event_types_parse_back(types: list[str]) -> None:
    key = KEYS["events"]["transient"]
    try:
        value = key.parse(", ".join(types))
    except ValueError:
        return
    assert key.parse(key.show(value)) == value


@given(st.text())
def test_hosts_origins_and_networks_parse_back_or_are_refused(text: str) -> None:
    several: tuple[kinds.Kind[Any], ...] = (kinds.HOST, kinds.ORIGINS, kinds.NETWORKS)
    for kind in several:
        try:
            value = kind.parse(text)
        except ValueError:
            continue
        assert kind.parse(kind.show(value)) == value
