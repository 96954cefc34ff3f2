"""nginx as docs/deploy/nginx.conf sets it up, before a server that is a process."""

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from issuer import certificate_files
from processes import PATIENCE
from support import Harness, settings_for
from system import program

SITE = Path(__file__).parent.parent / "docs" / "deploy" / "nginx.conf"

# What is around the site on a machine of its own: here nothing outside of a folder.
_AROUND = """
{user}
daemon off;
master_process on;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/logs/nginx.log;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    access_log {folder}/logs/others.log;
    include {folder}/site.conf;
}}
"""


class Nginx:
    """An nginx that runs; made by `nginx_before`."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", folder: Path, ports: dict[str, int]
    ) -> None:
        self._process = process
        self._logs = folder / "logs"
        self.port = ports["https"]
        self.plain_port = ports["http"]
        self.public_url = f"https://127.0.0.1:{self.port}"
        self.tls = ssl.create_default_context(cafile=folder / "tls" / "cert.pem")

    def logged(self) -> str:
        """Return all that it has logged, of every kind."""
        return "".join(path.read_text() for path in self._logs.iterdir())


class Outside:
    """Where a server is found by devices, which is at nginx, and by back ends, which is not."""

    def __init__(self, nginx: Nginx, internal_url: str) -> None:
        self.public_url = nginx.public_url
        self.internal_url = internal_url


def outside(nginx: Nginx, internal_url: str, folder: Path) -> Harness:
    """Return a server as devices and back ends see it when nginx is before it."""
    made = Harness(Outside(nginx, internal_url), settings_for(folder))
    made.tls = nginx.tls
    return made


def site(folder: Path, upstream: str, ports: dict[str, int]) -> str:
    """Return the shipped site with ports, files and upstream of this test, and no more changed."""
    text = SITE.read_text()
    cert, key = certificate_files(folder / "tls")
    changes = {
        # Loopback only, and one family: the other has the same lines.
        r"listen \[::\]:\d+[^;]*;": "",
        r"listen 80;": f"listen 127.0.0.1:{ports['http']};",
        r"listen 443 ": f"listen 127.0.0.1:{ports['https']} ",
        r"server_name [^;]*;": "server_name 127.0.0.1;",
        r"ssl_certificate +[^;]*;": f"ssl_certificate {cert};",
        r"ssl_certificate_key +[^;]*;": f"ssl_certificate_key {key};",
        r"/var/log/nginx/": f"{folder}/logs/",
    }
    if upstream.startswith("unix:"):
        changes |= {
            r"\n +server 127\.0\.0\.1:8080 [^;]*;": "",
            r"# server unix:\S+ ": f"server {upstream} ",
        }
    else:
        changes[r"server 127\.0\.0\.1:8080 "] = f"server {upstream.removeprefix('http://')} "
    for pattern, replacement in changes.items():
        text, count = re.subn(pattern, replacement, text)
        assert count, pattern
    return text


@contextmanager
def nginx_before(folder: Path, upstream: str) -> Iterator[Nginx]:
    """Run nginx with the shipped site for the length of a block, before a public listener.

    ``upstream`` is its address, as its line `listening` has it. Tests that use it are marked
    ``needs("nginx")``.
    """
    folder.mkdir()
    (folder / "logs").mkdir()
    found = program("nginx")
    assert found is not None
    with (
        socket.create_server(("127.0.0.1", 0), backlog=500) as http,
        socket.create_server(("127.0.0.1", 0), backlog=500) as https,
    ):
        ports = {"http": http.getsockname()[1], "https": https.getsockname()[1]}
        (folder / "site.conf").write_text(site(folder, upstream, ports))
        # Its workers would be nobody, who may not enter the folder of a test that is root's.
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(_AROUND.format(folder=folder, user=user))
        process = subprocess.Popen(
            [found, "-p", str(folder), "-e", "logs/early.log", "-c", str(folder / "nginx.conf")],
            # As it inherits them from an nginx that it takes the place of: no port is guessed.
            env={"PATH": os.defpath, "NGINX": f"{http.fileno()};{https.fileno()};"},
            pass_fds=[http.fileno(), https.fileno()],
            stderr=subprocess.PIPE,
        )
    try:
        yield Nginx(process, folder, ports)
        assert process.poll() is None, (folder / "logs" / "nginx.log").read_text()
    finally:
        process.terminate()
        try:
            _, complaints = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            shutil.rmtree(folder / "tls")
    assert complaints == b""
