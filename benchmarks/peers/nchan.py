"""Nchan, the pub/sub module of nginx: messages in memory, no token checked."""

import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.base import Endpoint, Start, running, wait_for

PACKAGES = ("nginx", "libnginx-mod-nchan")
MODULE = "lib/nginx/modules/ngx_nchan_module.so"

# Nchan makes a location of its own, which takes no temporary paths from the configuration, and
# nginx wants to make those it was compiled with. Where the package isn't installed they can't
# be made, so nginx gets a /var/lib that only it sees.
COMPILED_IN = Path("/var/lib/nginx")
PRIVATELY = 'mount -t tmpfs none /var/lib && mkdir /var/lib/nginx && exec "$0" "$@"'

CONFIGURATION = """
load_module {module};
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile {descriptors};
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections {descriptors}; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  nchan_shared_memory_size 2048M;
  nchan_message_buffer_length {kept};
  nchan_message_timeout 1d;
  server {{
    listen 127.0.0.1:{public} backlog=4096;
    location ~ ^/live/(.+)$ {{
      nchan_subscriber websocket;
      nchan_channel_id $1;
      nchan_subscriber_first_message newest;
    }}
    location ~ ^/all/(.+)$ {{
      nchan_subscriber websocket;
      nchan_channel_id $1;
      nchan_subscriber_first_message oldest;
    }}
  }}
  server {{
    listen 127.0.0.1:{internal} backlog=4096;
    location ~ ^/publish/(.+)$ {{
      nchan_publisher http;
      nchan_channel_id $1;
      client_max_body_size 16m;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Nchan:
    """nginx with Nchan: as installed, or unpacked into the cache folder."""

    cache: Path
    label: str = "Nchan"
    kind: str = "nchan"

    def missing(self) -> str | None:
        """Fetch what isn't installed; returns why it can't run, None if it can."""
        if self._program() is not None:
            return None
        if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            return "needs nginx with Nchan, or apt-get and dpkg to fetch it"
        folder = self.cache / "debian"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(
                ["apt-get", "download", *PACKAGES],
                cwd=folder, check=True, capture_output=True, text=True,
            )  # fmt: skip
            for package in folder.glob("*.deb"):
                subprocess.run(["dpkg", "-x", package, folder], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            return f"{error.cmd[0]}: {error.stderr.strip() or error}"
        return None if self._program() else "the packages hold no nginx with Nchan"

    def _program(self) -> tuple[Path, Path] | None:
        """Return the paths of nginx and of its module."""
        for root in (Path("/"), self.cache / "debian"):
            program = root / "usr/sbin/nginx"
            module = root / "usr" / MODULE
            if program.exists() and module.exists():
                return program, module
        return None

    @contextmanager
    def start(self, start: Start) -> Iterator[Endpoint]:
        """Run it until the block is left."""
        found = self._program()
        assert found is not None, "missing() comes first"
        program, module = found
        public, internal = _free_ports(2)
        start.folder.mkdir(parents=True, exist_ok=True)
        (start.folder / "nginx.conf").write_text(
            CONFIGURATION.format(
                module=module,
                public=public,
                internal=internal,
                kept=start.kept,
                descriptors=_descriptors(),
            )
        )
        command = [str(program), "-p", f"{start.folder}/", "-c", "nginx.conf"]
        if not COMPILED_IN.exists():
            command = ["unshare", "--mount", "--map-root-user", "sh", "-c", PRIVATELY, *command]
        with running(command, folder=start.folder) as process:
            wait_for(_reachable(internal), process, start.folder)
            yield Endpoint(
                "nchan",
                public,
                internal,
                process.pid,
                start.secrets.jwt,
                start.secrets.emit,
                start.folder,
            )


def _descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def _reachable(port: int) -> Iterator[bool]:
    while True:
        with socket.socket() as probe:
            yield probe.connect_ex(("127.0.0.1", port)) == 0
