"""An issuer of tokens: its private keys, and its key set on a real HTTP server."""

import datetime as dt
import functools
import ipaddress
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID
from jwt.algorithms import get_default_algorithms

PATH = "/keys.json"


@functools.cache
def private_key(kind: str, number: int = 0) -> Any:
    """Return the same private key whenever it is asked for: ``rsa2048``, ``P-256``, ``Ed25519``."""
    del number
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))
    if kind.startswith("Ed"):
        if kind == "Ed448":
            return ed448.Ed448PrivateKey.generate()
        return ed25519.Ed25519PrivateKey.generate()
    curves: dict[str, ec.EllipticCurve] = {
        "P-256": ec.SECP256R1(),
        "P-384": ec.SECP384R1(),
        "P-521": ec.SECP521R1(),
        "secp256k1": ec.SECP256K1(),
    }
    return ec.generate_private_key(curves[kind])


def algorithm_of(kind: str) -> str:
    """Return the first algorithm that a kind of key signs with."""
    by_kind = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "secp256k1": "ES256K"}
    return "RS256" if kind.startswith("rsa") else by_kind.get(kind, "EdDSA")


def pem(kind: str, number: int = 0) -> str:
    """Return a public key in PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = private_key(kind, number).public_key()
    return str(public.public_bytes(serialization.Encoding.PEM, form).decode())


def private_pem(kind: str, number: int = 0, *, password: bytes | None = None) -> str:
    """Return a private key in PEM."""
    return str(
        private_key(kind, number)
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password)
            if password
            else serialization.NoEncryption(),
        )
        .decode()
    )


def certificate(kind: str = "P-256", number: int = 0) -> str:
    """Return a certificate of 127.0.0.1 and localhost in PEM, signed with its own key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tests {number}")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key(kind, number).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                    x509.DNSName("localhost"),
                ]
            ),
            critical=False,
        )
        .sign(private_key(kind, number), hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def certificate_files(folder: Path, kind: str = "P-256", number: int = 0) -> tuple[Path, Path]:
    """Write a certificate and its key to a folder, over those that are there."""
    folder.mkdir(exist_ok=True)
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_text(certificate(kind, number), encoding="utf-8")
    key.write_text(private_pem(kind, number), encoding="utf-8")
    return cert, key


def certificate_with_key(folder: Path) -> Path:
    """Write a certificate and its key into one file of a folder."""
    cert, key = certificate_files(folder)
    both = folder / "both.pem"
    both.write_text(key.read_text(encoding="utf-8") + cert.read_text(encoding="utf-8"))
    return both


def jwk(kind: str, number: int = 0, *, kid: str | None = None, **members: Any) -> dict[str, Any]:
    """Return a public key as a member of a key set."""
    algorithm = get_default_algorithms()[algorithm_of(kind)]
    made: dict[str, Any] = algorithm.to_jwk(private_key(kind, number).public_key(), as_dict=True)
    made.pop("key_ops", None)
    named = {} if kid is None else {"kid": kid}
    return {**made, **named, **members}


def signed(
    kind: str,
    user: str = "u",
    number: int = 0,
    *,
    algorithm: str | None = None,
    kid: str | None = None,
    **claims: Any,
) -> str:
    """Sign a token of a user with a private key."""
    return jwt.encode(
        {"userId": user, **claims},
        private_key(kind, number),
        algorithm=algorithm or algorithm_of(kind),
        headers=None if kid is None else {"kid": kid},
    )


class Issuer:
    """A key set that is served; what is answered can be changed at any time."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}{PATH}"
        self.document = b""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests = 0
        self.let_go = threading.Event()
        self.let_go.set()

    def publish(self, *keys: dict[str, Any]) -> None:
        """Serve a set of these keys."""
        self.document = json.dumps({"keys": keys}).encode()

    def stall(self) -> None:
        """Answer nothing more until `let_go` is set."""
        self.let_go.clear()


@contextmanager
def issuing(*keys: dict[str, Any]) -> Iterator[Issuer]:
    """Serve a key set on a free port of this machine for the length of a block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.requests += 1
            issuer.let_go.wait(60)
            self.send_response(issuer.status)
            for name, value in issuer.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in issuer.headers:
                self.send_header("Content-Length", str(len(issuer.document)))
            self.end_headers()
            self.wfile.write(issuer.document)

        def handle(self) -> None:
            try:
                super().handle()
            except (BrokenPipeError, ConnectionResetError):
                # Whoever asked has had enough.
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = Issuer(server.server_address[1])
        issuer.publish(*keys)
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        try:
            yield issuer
        finally:
            issuer.let_go.set()
            server.shutdown()
            serving.join()
