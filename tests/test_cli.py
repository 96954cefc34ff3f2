"""The command line, as a program of its own, against a server that runs."""

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import pytest

from issuer import certificate_files, pem
from processes import PATIENCE, ServerProcess, command, serving, started
from support import EMIT_TOKEN, SECRET


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(tmp_path) as process:
        yield process


@pytest.fixture
def ports(server: ServerProcess) -> dict[str, str]:
    return {
        "ARCHIBALD_RT_SERVER_PORT": str(urlsplit(server.public_url).port),
        "ARCHIBALD_RT_INTERNAL_PORT": str(urlsplit(server.internal_url).port),
    }


def one_line(ended: "subprocess.CompletedProcess[str]") -> str:
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("archibald-rt: ")
    return line


def test_emit_prints_the_answer_and_keeps_the_payloads_spelling(
    tmp_path: Path, ports: dict[str, str]
) -> None:
    ended = command(tmp_path, "emit", "u", "JOB_STARTED", '{"n": 1.00}', extra=ports)
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert answer["durable"] is True
    with started(tmp_path, "tail", "u", "--after", "earliest", extra=ports) as tail:
        assert tail.stdout is not None
        line = tail.stdout.readline()
        tail.send_signal(signal.SIGINT)
        tail.wait(PATIENCE)
    assert json.loads(line)["id"] == answer["id"]
    assert '"payload":{"n": 1.00}' in line


def test_tail_comes_by_tls_where_the_server_speaks_it(tmp_path: Path) -> None:
    cert, key = certificate_files(tmp_path / "tls")
    tls = {"ARCHIBALD_RT_SERVER_TLS_CERT": str(cert), "ARCHIBALD_RT_SERVER_TLS_KEY": str(key)}
    with serving(tmp_path, tls) as server:
        assert server.public_url.startswith("https://")
        ports = {
            **tls,
            "ARCHIBALD_RT_SERVER_PORT": str(urlsplit(server.public_url).port),
            "ARCHIBALD_RT_INTERNAL_PORT": str(urlsplit(server.internal_url).port),
        }
        assert command(tmp_path, "emit", "u", "JOB_STARTED", extra=ports).returncode == 0
        with started(tmp_path, "tail", "u", "--after", "earliest", extra=ports) as tail:
            assert tail.stdout is not None
            assert json.loads(tail.stdout.readline())["type"] == "JOB_STARTED"
            tail.send_signal(signal.SIGINT)
            tail.wait(PATIENCE)
        # A server of another certificate is not the configured one.
        certificate_files(tmp_path / "tls", number=1)
        with started(tmp_path, "tail", "u", "--after", "earliest", extra=ports) as tail:
            assert tail.wait(PATIENCE) == 1


def test_a_server_to_try_out_needs_no_secret_where_public_keys_are_configured(
    tmp_path: Path,
) -> None:
    (tmp_path / "key.pem").write_text(pem("P-256"), encoding="utf-8")
    extra = {
        "ARCHIBALD_RT_AUTH_JWT_SECRET": "",
        "ARCHIBALD_RT_AUTH_JWT_PUBLIC_KEY_FILE": str(tmp_path / "key.pem"),
        "ARCHIBALD_RT_AUTH_ALGORITHMS": "ES256",
    }
    with started(tmp_path, "serve", "--dev", extra=extra) as server:
        assert server.stdout is not None
        lines = [server.stdout.readline() for _ in range(6)]
        assert "one of your issuer's" in "".join(lines)
    assert "needed to sign a token" in one_line(command(tmp_path, "token", "u", extra=extra))


def test_config_show_has_public_keys_and_addresses_but_no_secret_of_them(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(pem("P-256"), encoding="utf-8")
    extra = {
        "ARCHIBALD_RT_AUTH_JWT_PUBLIC_KEY_FILE": str(tmp_path / "key.pem"),
        "ARCHIBALD_RT_AUTH_JWKS_URL": "https://user:hidden@issuer.example/keys",
        "ARCHIBALD_RT_AUTH_ALGORITHMS": "HS256, ES256",
    }
    shown = command(tmp_path, "config", "show", extra=extra).stdout
    assert "jwks_url = https://***@issuer.example/keys" in shown
    for hidden in (SECRET, EMIT_TOKEN, "hidden"):
        assert hidden not in shown


def test_tail_follows_a_user_through_a_restart_of_the_server(tmp_path: Path) -> None:
    with contextlib.ExitStack() as running:
        first = running.enter_context(serving(tmp_path))
        ports = {
            "ARCHIBALD_RT_SERVER_PORT": str(urlsplit(first.public_url).port),
            "ARCHIBALD_RT_INTERNAL_PORT": str(urlsplit(first.internal_url).port),
        }
        command(tmp_path, "emit", "u", "BEFORE", extra=ports)
        tail = running.enter_context(
            started(tmp_path, "tail", "u", "--after", "earliest", extra=ports)
        )
        assert tail.stdout is not None
        lines = [tail.stdout.readline()]
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
        running.enter_context(serving(tmp_path, ports))
        command(tmp_path, "emit", "u", "AFTER", extra=ports)
        lines.append(tail.stdout.readline())
        tail.send_signal(signal.SIGINT)
        assert tail.wait(PATIENCE) == 0
    assert [json.loads(line)["type"] for line in lines] == ["BEFORE", "AFTER"]


def test_emit_takes_its_options_and_its_payload_from_the_standard_input(
    tmp_path: Path, ports: dict[str, str]
) -> None:
    transient = command(tmp_path, "emit", "u", "A", "--transient", extra=ports)
    assert json.loads(transient.stdout)["durable"] is False
    piped = command(tmp_path, "emit", "u", "A", "-", "--key", "k", extra=ports, stdin=b"[1]\n")
    again = command(tmp_path, "emit", "u", "A", "[1]", "--key", "k", extra=ports)
    assert json.loads(again.stdout)["duplicate"] is True
    assert json.loads(again.stdout)["id"] == json.loads(piped.stdout)["id"]
    news = command(tmp_path, "emit", "--broadcast", "NEWS", '"x"', "--durable", extra=ports)
    assert json.loads(news.stdout)["durable"] is True


def test_emit_says_in_one_line_what_went_wrong(tmp_path: Path, ports: dict[str, str]) -> None:
    refused = command(tmp_path, "emit", "u", "rt.live", extra=ports)
    assert refused.returncode == 1
    assert "type" in one_line(refused)
    for arguments in (["u"], ["u", "A", "{"], ["u", "A", "1", "2"], ["--broadcast"]):
        wrong = command(tmp_path, "emit", *arguments, extra=ports)
        assert wrong.returncode == 2
        one_line(wrong)
    nobody = {**ports, "ARCHIBALD_RT_INTERNAL_PORT": "1"}
    unreachable = command(tmp_path, "emit", "u", "A", extra=nobody)
    assert unreachable.returncode == 1
    assert "127.0.0.1:1" in one_line(unreachable)


def test_token_prints_a_bare_token_that_the_server_takes(tmp_path: Path) -> None:
    ended = command(tmp_path, "token", "u", "--role", "admin", "--expires", "5m")
    assert ended.returncode == 0
    claims = jwt.decode(ended.stdout.strip(), SECRET, algorithms=["HS256"])
    assert claims["userId"] == "u"
    assert claims["role"] == "admin"
    assert claims["exp"] - claims["iat"] == 300
    never = command(tmp_path, "token", "u", "--expires", "0")
    assert "exp" not in jwt.decode(never.stdout.strip(), SECRET, algorithms=["HS256"])
    wrong = command(tmp_path, "token", "u", "--expires", "soon")
    assert wrong.returncode == 2
    one_line(wrong)


def test_config_check_says_whether_the_server_would_start(tmp_path: Path) -> None:
    good = command(tmp_path, "config", "check")
    assert (good.returncode, good.stderr) == (0, "")
    bad = command(tmp_path, "config", "check", extra={"ARCHIBALD_RT_AUTH_JWT_SECRET": "short"})
    assert bad.returncode == 2
    assert "jwt_secret" in one_line(bad)
    missing = command(tmp_path, "config", "check", "--config", "nowhere.ini")
    assert missing.returncode == 2
    assert "nowhere.ini" in one_line(missing)


def test_config_show_masks_secrets_and_can_be_read_back(tmp_path: Path) -> None:
    shown = command(tmp_path, "config", "show", extra={"ARCHIBALD_RT_DELIVERY_HEARTBEAT": "5s"})
    assert shown.returncode == 0
    assert SECRET not in shown.stdout
    assert EMIT_TOKEN not in shown.stdout
    assert "jwt_secret = ***" in shown.stdout
    assert "heartbeat = 5s" in shown.stdout
    assert "drain = 10s  # default" in shown.stdout


def test_wrong_usage_is_one_line_and_exit_2(tmp_path: Path) -> None:
    for arguments in (["nonsense"], ["serve", "--nonsense"], ["token"], ["config", "check", "x"]):
        ended = command(tmp_path, *arguments)
        assert ended.returncode == 2
        one_line(ended)


def test_serve_dev_prints_what_works_when_it_is_pasted(tmp_path: Path) -> None:
    extra = {"ARCHIBALD_RT_AUTH_JWT_SECRET": "", "ARCHIBALD_RT_INTERNAL_EMIT_TOKENS": ""}
    with started(tmp_path, "serve", "--dev", extra=extra) as server:
        assert server.stdout is not None
        printed = ""
        while "curl" not in printed or not printed.endswith("'\n"):
            printed += server.stdout.readline()
        curl = printed[printed.index("curl") :].strip()
        ended = subprocess.run(
            ["sh", "-c", curl + " -sS -f"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0
    assert json.loads(ended.stdout)["durable"] is True
    assert 'import("http://127.0.0.1:' in printed


def test_help_is_there_for_every_command(tmp_path: Path) -> None:
    listed = command(tmp_path, "--help")
    assert listed.returncode == 0
    for name in ("serve", "emit", "tail", "token", "log", "config"):
        assert name in listed.stdout
        assert command(tmp_path, name, "--help").returncode == 0


def test_serve_dev_does_not_show_secrets_that_are_configured(tmp_path: Path) -> None:
    with started(tmp_path, "serve", "--dev") as server:
        assert server.stdout is not None
        printed = ""
        while "curl" not in printed or not printed.endswith("'\n"):
            printed += server.stdout.readline()
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0
    assert "(as configured)" in printed
    assert SECRET not in printed
    assert EMIT_TOKEN not in printed


def test_config_check_refuses_what_serve_refuses(tmp_path: Path) -> None:
    short = {"ARCHIBALD_RT_INTERNAL_EMIT_TOKENS": "short"}
    for extra in (short, {"ARCHIBALD_RT_AUTH_ALGORITHMS": "ES256"}):
        for arguments in (("config", "check"), ("serve",)):
            ended = command(tmp_path, *arguments, extra=extra)
            assert ended.returncode == 2
            one_line(ended)


def test_a_payload_may_be_a_negative_number_and_a_user_must_be_one(
    tmp_path: Path, ports: dict[str, str]
) -> None:
    assert command(tmp_path, "emit", "u", "A", "-1", extra=ports).returncode == 0
    for user in ("", "x" * 257):
        wrong = command(tmp_path, "token", user)
        assert wrong.returncode == 2
        one_line(wrong)
