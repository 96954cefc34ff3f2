"""The configuration from its sources: ``settings.load``, ``checks`` and ``report``."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archibald_rt.errors import ConfigError
from archibald_rt.settings import (
    AuthSettings,
    InternalSettings,
    LogSettings,
    ServerSettings,
    Settings,
    changed,
    describe,
    load,
    require_secrets,
)
from archibald_rt.settings.schema import KEYS

SECRET = "a-secret-of-more-than-thirty-two-bytes"
Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the text of a config file and return its path."""

    def write_file(text: str | bytes) -> Path:
        path = tmp_path / "config.ini"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


def refusal(path: Path | None = None, /, **variables: str) -> str:
    """Return the one line with which loading fails; the variables go without their prefix."""
    prefixed = {f"ARCHIBALD_RT_{name}": text for name, text in variables.items()}
    with pytest.raises(ConfigError) as caught:
        load(path, required=True, environ=prefixed)
    line = str(caught.value)
    assert line.isprintable()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return line


def message_of(path: Path | None, environ: Mapping[str, str]) -> str:
    """Return the message with which loading fails, or nothing if it doesn't."""
    try:
        load(path, required=True, environ=environ)
    except ConfigError as error:
        return str(error)
    return ""


# Sources


def test_without_any_source_everything_has_its_default() -> None:
    assert load(None, required=False, environ={}) == Settings()


def test_a_missing_file_matters_only_when_it_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "config.ini"
    assert load(path, required=False, environ={}) == Settings()
    with pytest.raises(ConfigError, match=r"config\.ini: no such file$"):
        load(path, required=True, environ={})


def test_the_environment_overrides_the_file_and_the_command_line_both(write: Write) -> None:
    path = write("[server]\nport = 1\nhost = a\n[log]\npath = here.db\n")
    environ = {"ARCHIBALD_RT_SERVER_PORT": "2", "ARCHIBALD_RT_SERVER_HOST": "b"}
    settings = load(path, required=True, environ=environ, overrides={("server", "port"): "3"})
    assert settings.server == ServerSettings(port=3, host="b")
    assert settings.log == LogSettings(path=Path("here.db"))


def test_an_overridden_value_is_not_read(write: Write) -> None:
    path = write("[server]\nport_file = /no/such/file\nhost = a b\n")
    environ = {"ARCHIBALD_RT_SERVER_PORT": "2", "ARCHIBALD_RT_SERVER_HOST": "b"}
    assert load(path, required=True, environ=environ).server == ServerSettings(port=2, host="b")


def test_an_empty_variable_unsets_what_the_file_sets(write: Write) -> None:
    path = write("[auth]\nissuer = x\n[events]\ntransient = a\n[internal]\nunix_socket = s\n")
    environ = {
        "ARCHIBALD_RT_AUTH_ISSUER": "",
        "ARCHIBALD_RT_EVENTS_TRANSIENT": "",
        "ARCHIBALD_RT_INTERNAL_UNIX_SOCKET": " ",
    }
    settings = load(path, required=True, environ=environ)
    assert settings.auth.issuer is None
    assert settings.events.transient == ()
    assert settings.internal.unix_socket is None


def test_sections_with_an_underscore_are_found_in_the_environment() -> None:
    environ = {"ARCHIBALD_RT_CLIENT_MESSAGES_TIMEOUT": "7s", "ARCHIBALD_RT_LOGGING_LEVEL": "DEBUG"}
    settings = load(None, required=False, environ=environ)
    assert settings.client_messages.timeout == 7
    assert settings.logging.level == "debug"


@pytest.mark.parametrize(
    "variable", ["ARCHIBALD_RT_BUILD", "ARCHIBALD_RT_", "ARCHIBALD_RT_SERVER", "PORT", "LC_ALL"]
)
def test_variables_of_no_known_section_are_ignored(variable: str) -> None:
    assert load(None, required=False, environ={variable: "x"}) == Settings()


def test_keys_are_read_in_any_case_and_a_byte_order_mark_is_skipped(write: Write) -> None:
    path = write(b"\xef\xbb\xbf[server]\r\nPORT: 9\r\n; a comment\r\n")
    assert load(path, required=True, environ={}).server.port == 9


def test_nothing_is_substituted_in_values(write: Write) -> None:
    path = write("[auth]\nissuer = %(x)s 100% $HOME\n")
    assert load(path, required=True, environ={}).auth.issuer == "%(x)s 100% $HOME"


def test_lists_may_have_lines_and_comments_between_them(write: Write) -> None:
    path = write("[events]\ntransient =\n  *_PROGRESS\n  # drafts\n  draft:submitted,\n\n  x\n")
    assert load(path, required=True, environ={}).events.transient == (
        "*_PROGRESS",
        "draft:submitted",
        "x",
    )


def test_the_settings_are_frozen() -> None:
    settings = load(None, required=False, environ={})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.server.port = 1  # type: ignore[misc]  # that it can't be set is the test


# Values from files


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_variable_may_name_a_file_that_holds_the_value(tmp_path: Path, ending: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(f" {SECRET} ".encode() + ending.encode())
    environ = {"ARCHIBALD_RT_CLIENT_MESSAGES_WEBHOOK_SECRET_FILE": str(secret)}
    settings = load(None, required=False, environ=environ)
    assert settings.client_messages.webhook_secret == f" {SECRET} "


def test_the_config_file_may_name_a_file_that_holds_the_value(write: Write, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("one\ntwo\n")
    path = write(f"[auth]\njwt_secret_file = {secret}\n")
    assert load(path, required=True, environ={}).auth.jwt_secret == ("one", "two")


def test_a_named_file_overrides_a_value_from_an_earlier_source(
    write: Write, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("new")
    environ = {"ARCHIBALD_RT_AUTH_JWT_SECRET_FILE": str(secret)}
    settings = load(write("[auth]\njwt_secret = old\n"), required=True, environ=environ)
    assert settings.auth.jwt_secret == ("new",)


def test_a_value_and_its_file_in_one_source_are_refused(write: Write) -> None:
    line = refusal(AUTH_JWT_SECRET="a", AUTH_JWT_SECRET_FILE="b")
    assert line == (
        "ARCHIBALD_RT_AUTH_JWT_SECRET_FILE: [auth] jwt_secret_file:"
        " already set by ARCHIBALD_RT_AUTH_JWT_SECRET; keep one of them"
    )
    line = refusal(write("[auth]\njwt_secret_file = a\njwt_secret = b\n"))
    assert line.endswith("[auth] jwt_secret: already set by jwt_secret_file; keep one of them")


def test_variables_that_differ_only_in_case_are_refused() -> None:
    line = refusal(SERVER_PORT="1", SERVER_port="1")
    assert "ARCHIBALD_RT_SERVER_port: [server] port: already set by" in line


def test_a_named_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    line = refusal(AUTH_JWT_SECRET_FILE=str(missing))
    assert line == (
        f"ARCHIBALD_RT_AUTH_JWT_SECRET_FILE: [auth] jwt_secret_file: {missing} can't be read:"
        " No such file or directory"
    )
    assert "Is a directory" in refusal(AUTH_JWT_SECRET_FILE=str(tmp_path))
    assert "names no file" in refusal(AUTH_JWT_SECRET_FILE=" ")
    assert "zero byte" in refusal(AUTH_JWT_SECRET_FILE="a\0b")
    assert "larger than 1MiB" in refusal(AUTH_JWT_SECRET_FILE="/dev/zero")
    missing.write_bytes(b"\xff")
    assert "line 1 is not UTF-8" in refusal(AUTH_JWT_SECRET_FILE=str(missing))


def test_what_a_named_file_holds_is_never_repeated(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    line = refusal(SERVER_PORT_FILE=str(secret))
    assert SECRET not in line
    assert line.startswith(f"ARCHIBALD_RT_SERVER_PORT_FILE ({secret}): [server] port: ")


# Mistakes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nprot = 1", "[server] has no key prot; the nearest is [server] port"),
        ("[log]\nlevel = info", "[log] has no key level; the nearest is [logging] level"),
        ("[auth]\njwt_secrets_file = x", "the nearest is [auth] jwt_secret_file"),
        ("[servre]", "there is no section [servre]; the nearest is [server]"),
        ("[Server]\nport = 1", "there is no section [Server]; the nearest is [server]"),
        ("[DEFAULT]\nport = 1", "there is no section [DEFAULT]; the nearest is ["),
        ("[server]\nport = 80a", "[server] port: '80a' can't be used; expected a whole number"),
        ("[server]\nport =", "[server] port: '' can't be used"),
        ("[server]\nhost = a\n  port = 1", "(an indented line continues the one above it)"),
        ("[server]\nport = 1\nPort = 1", "line 3: [server] port is set a second time"),
        ("[server]\n[log]\n[server]", "line 3: [server] begins a second time"),
        ("[a\ab]\n[a\ab]", r"line 2: '[a\x07b]' begins a second time"),
        ("[a\ab]\nx = 1\nx = 1", r"line 3: '[a\x07b] x' is set a second time"),
        ("port = 1", "line 1: a key before the first section"),
        ("[server]\nport", "line 2: expected [section], key = value"),
        ("[server]\n= 1", "line 2: expected [section], key = value"),
        (b"[server]\nhost = \xe4", "line 2 is not UTF-8"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(write: Write, text: str | bytes, expected: str) -> None:
    path = write(text)
    line = refusal(path)
    assert line.startswith(f"{path}: ")
    assert expected in line


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("SERVER_PROT", "1", "[server] has no key prot; the nearest is ARCHIBALD_RT_SERVER_PORT"),
        ("LOG_LEVEL", "info", "the nearest is ARCHIBALD_RT_LOGGING_LEVEL"),
        ("AUTH_JWT_SECRT_FILE", "x", "the nearest is ARCHIBALD_RT_AUTH_JWT_SECRET_FILE"),
        ("CLIENT_MESSAGES_URL", "x", "[client_messages] has no key url; the nearest is "),
        ("LOG_MAX_AGE", "7 weeks", "[log] max_age: '7 weeks' can't be used; expected a time"),
        ("SERVER_HOST", "\udcff", r"[server] host: '\udcff' can't be used"),
        ("LOGGING_FORMAT", "xml", "'xml' can't be used; expected one of text, json"),
    ],
)
def test_a_mistake_in_the_environment_is_one_line(variable: str, text: str, expected: str) -> None:
    line = refusal(None, **{variable: text})
    assert line.startswith(f"ARCHIBALD_RT_{variable}: ")
    assert expected in line


def test_a_mistake_on_the_command_line_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^command line: \[server\] port: 'x' can't be used"):
        load(None, required=False, environ={}, overrides={("server", "port"): "x"})
    with pytest.raises(ConfigError, match=r"^command line: there is no section \[servr\]"):
        load(None, required=False, environ={}, overrides={("servr", "port"): "1"})


def test_a_config_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: can't be read: Is a directory"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"[auth]\njwt_secret = {SECRET}\a", SECRET),
        (f"[auth]\njwt_secret =\n{SECRET}", SECRET),
        ("[auth]\njwt_secret =\nmdewmjqznzg5mduxmjm0nty3odkwmtizndu2nzg5mde=", "mdewmj"),
        (SECRET, SECRET),
        ("[nats]\nservers = http://user:hunter2@host", "hunter2"),
        ("[client_messages]\nwebhook_secret = a\n  b-secret", "b-secret"),
    ],
)
def test_no_error_repeats_a_secret(write: Write, text: str, secret: str) -> None:
    assert secret not in refusal(write(text))


@given(st.binary())
def test_any_file_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.ini"
    path.write_bytes(content)
    assert message_of(path, {}).isprintable()


@given(
    st.sampled_from(["server", "log", "logging", "auth", "client_messages", "x"]),
    st.text(),
    st.text(),
)
def test_any_variable_is_read_or_refused_in_one_line(section: str, name: str, text: str) -> None:
    environ = {f"ARCHIBALD_RT_{section.upper()}_{name}": text}
    assert message_of(None, environ).isprintable()


# Settings that belong together


@pytest.mark.parametrize(("one", "other"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert")])
def test_a_certificate_without_its_key_is_refused(write: Write, one: str, other: str) -> None:
    line = refusal(write(f"[server]\n{one} = a.pem\n"))
    assert line == f"[server] {one} is set without {other}; set both or neither"


def test_both_listeners_on_one_port_are_refused() -> None:
    assert "[internal] port are both 8081" in refusal(SERVER_PORT="8081")
    assert "same path" in refusal(SERVER_UNIX_SOCKET="a", INTERNAL_UNIX_SOCKET="a")


@pytest.mark.parametrize(
    "environ",
    [
        {"SERVER_PORT": "0", "INTERNAL_PORT": "0"},
        {"SERVER_PORT": "8081", "INTERNAL_HOST": "127.0.0.2"},
        {"SERVER_PORT": "8081", "INTERNAL_UNIX_SOCKET": "a"},
    ],
)
def test_listeners_that_differ_are_accepted(environ: dict[str, str]) -> None:
    load(None, required=False, environ={f"ARCHIBALD_RT_{k}": v for k, v in environ.items()})


@pytest.mark.parametrize(
    ("total", "largest", "least"),
    [("255KiB", "64KiB", "256KiB"), ("3MiB", "1MiB", "4MiB"), ("1", "1KiB", "256KiB")],
)
def test_a_bound_of_all_outboxes_that_no_few_events_fit_is_refused(
    total: str, largest: str, least: str
) -> None:
    line = refusal(DELIVERY_MAX_OUTBOX_TOTAL=total, EVENTS_MAX_EVENT=largest)
    assert "[delivery] max_outbox_total" in line
    assert f"at least {least} " in line
    for enough in (least, "0"):
        environ = {
            "ARCHIBALD_RT_DELIVERY_MAX_OUTBOX_TOTAL": enough,
            "ARCHIBALD_RT_EVENTS_MAX_EVENT": largest,
        }
        load(None, required=False, environ=environ)


# Secrets


def secrets(
    jwt_secret: tuple[str, ...] = (SECRET,),
    emit_tokens: tuple[str, ...] = (SECRET,),
    read_tokens: tuple[str, ...] = (),
) -> Settings:
    return Settings(
        auth=AuthSettings(jwt_secret=jwt_secret),
        internal=InternalSettings(emit_tokens=emit_tokens, read_tokens=read_tokens),
    )


def test_secrets_of_32_bytes_suffice() -> None:
    require_secrets(secrets(("x" * 32, "é" * 16), ("ü" * 16,), ("y" * 32,)))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (secrets(jwt_secret=()), "[auth] jwt_secret "),
        (secrets(emit_tokens=()), "[internal] emit_tokens "),
        (secrets(jwt_secret=("x" * 31,)), "[auth] jwt_secret: has 31 bytes"),
        (secrets(jwt_secret=(SECRET, "abc")), "jwt_secret: number 2 of 2 has 3 bytes"),
        (secrets(emit_tokens=("abc",)), "[internal] emit_tokens: has 3 bytes"),
        (secrets(read_tokens=("abc",)), "[internal] read_tokens: has 3 bytes"),
    ],
)
def test_a_missing_or_short_secret_is_refused_and_how_to_make_one_is_said(
    settings: Settings, name: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        require_secrets(settings)
    line = str(caught.value)
    assert name in line
    assert 'python3 -c "import secrets; print(secrets.token_urlsafe(32))"' in line
    assert "abc" not in line
    assert line.isprintable()


@pytest.mark.parametrize(
    "auth", [AuthSettings(jwks_url="https://a/keys"), AuthSettings(jwt_public_key="-----BEGIN")]
)
def test_a_public_key_or_a_key_set_is_as_good_as_a_secret(auth: AuthSettings) -> None:
    require_secrets(Settings(auth=auth, internal=InternalSettings(emit_tokens=(SECRET,))))


@pytest.mark.parametrize(
    "url", ["https://a/keys", "http://localhost:1/", "http://127.1.2.3/", "http://[::1]:80/x"]
)
def test_a_key_set_comes_by_https_or_from_this_machine(url: str) -> None:
    environ = {"ARCHIBALD_RT_AUTH_JWKS_URL": url}
    assert load(None, required=False, environ=environ).auth.jwks_url == url


@pytest.mark.parametrize(
    "url", ["http://a/keys", "http://localhost.a/", "http://127.0.0.1.a/", "http://10.0.0.1/"]
)
def test_a_key_set_of_another_machine_without_tls_is_refused(url: str) -> None:
    assert "[auth] jwks_url: http is only" in refusal(AUTH_JWKS_URL=url)


def test_the_repr_of_settings_shows_no_secret() -> None:
    assert SECRET not in repr(secrets(read_tokens=(SECRET,)))


# Reports


def test_what_changed_is_named_secrets_too_but_not_shown() -> None:
    before, after = secrets(("x" * 32,), ("y" * 32,)), secrets(("z" * 32,), ("y" * 32,))
    assert changed(before, before) == ()
    assert changed(before, dataclasses.replace(after, server=ServerSettings(port=9))) == (
        "server.port",
        "auth.jwt_secret",
    )


def test_describe_lists_every_key_with_its_default() -> None:
    rows = describe(Settings())
    assert len(rows) == sum(len(keys) for keys in KEYS.values())
    assert all(row.is_default for row in rows)
    shown = {(row.section, row.key): row.value for row in rows}
    assert shown["server", "unix_socket_mode"] == "0660"
    assert shown["internal", "max_body"] == "16MiB"
    assert shown["log", "max_age"] == "7d"
    assert shown["log", "prune_every"] == "1m"
    assert shown["auth", "user_claims"] == "userId, sub"
    assert shown["auth", "require_exp"] == "false"
    assert shown["auth", "jwt_secret"] == ""


def test_describe_masks_secrets() -> None:
    rows = describe(secrets(read_tokens=(SECRET,)))
    assert {row.value for row in rows if not row.is_default} == {"***"}
    assert SECRET not in str(rows)


_NUMBERS = st.integers(0, 10**6)
_DURATIONS = st.builds("{}{}".format, _NUMBERS, st.sampled_from(["ms", "s", "m"]))
_SIZES = st.builds("{}{}".format, _NUMBERS, st.sampled_from(["", "KiB", "MiB"]))
_VALUES = {
    ("server", "port"): st.integers(1, 8000).map(str),
    ("server", "unix_socket_mode"): st.integers(0o100, 0o777).map("{:04o}".format),
    ("server", "allowed_origins"): st.sampled_from(["", "*", "https://a, https://b:444"]),
    ("server", "drain"): _DURATIONS,
    ("server", "unix_socket"): st.sampled_from(["", "a.sock", "/run/b.sock"]),
    ("internal", "max_body"): _SIZES,
    ("auth", "require_exp"): st.sampled_from(["yes", "no"]),
    ("auth", "algorithms"): st.sampled_from(["RS256", "hs256\nes384"]),
    ("auth", "issuer"): st.sampled_from(["", "https://a", "100% a # b"]),
    ("log", "max_size"): _SIZES,
    ("log", "max_age"): _DURATIONS,
    ("delivery", "replay_page"): _NUMBERS.map(str),
    ("logging", "level"): st.sampled_from(["debug", "ERROR"]),
}


@given(st.fixed_dictionaries({}, optional=_VALUES))
def test_a_file_with_what_describe_prints_gives_the_same_settings(
    tmp_path_factory: pytest.TempPathFactory, overrides: dict[tuple[str, str], str]
) -> None:
    settings = load(None, required=False, environ={}, overrides=overrides)
    rows = describe(settings)
    lines = []
    for section in KEYS:
        lines.append(f"[{section}]")
        lines += [f"{row.key} = {row.value}" for row in rows if row.section == section]
    path = tmp_path_factory.getbasetemp() / "described.ini"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert load(path, required=True, environ={}) == settings


@pytest.mark.parametrize("name", ["emit_tokens", "read_tokens"])
def test_a_token_that_no_request_can_present_is_refused(write: Write, name: str) -> None:
    tokens = {"emit_tokens": SECRET} | {name: "correct horse battery staple is a long one"}
    lines = [f"{key} = {value}" for key, value in tokens.items()]
    text = "\n".join(["[auth]", f"jwt_secret = {SECRET}", "[internal]", *lines, ""])
    with pytest.raises(ConfigError, match="a blank") as caught:
        require_secrets(load(write(text), required=True, environ={}))
    assert str(caught.value).startswith(f"[internal] {name}: ")
    assert "horse" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "[{0}]\na = b\n",
        "[auth]\n{0} = \n",
        "[auth]\n{0}: x\n",
        "[auth]\rjwt_secret = {0}\r[log]\n",
    ],
)
def test_what_may_be_a_secret_in_a_names_place_is_not_repeated(write: Write, text: str) -> None:
    secret = "0123456789abcdef0123456789abcdef"
    assert secret not in refusal(write(text.format(secret)))
