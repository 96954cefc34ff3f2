"""The floor: sockets that did a WebSocket handshake, and a loop of ``send`` on them.

Whatever arrives at the internal port with a whole body is the trigger: one prebuilt frame
goes to every socket. No token is checked, nothing is read from devices. The ports are printed
as a line of JSON.
"""

import base64
import hashlib
import json
import selectors
import socket

FRAME_TEXT = (
    b'{"type":"JOB_COMPLETED","payload":{"jobId":"00000000-0000-0000-0000-000000000000",'
    b'"operation":"submit-order","message":"The order was submitted.","progress":100},'
    b'"timestamp":"2026-01-01T00:00:00.000Z"}'
)
# A server's frame is not masked: 0x81 is a whole text, 126 says that two bytes of length follow.
FRAME = b"\x81\x7e" + len(FRAME_TEXT).to_bytes(2, "big") + FRAME_TEXT
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ANSWER = b'{"delivered":0}'
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)


def header(head: bytes, name: bytes) -> bytes:
    """Return a header's value; empty without one."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""


def shake_hands(connection: socket.socket) -> None:
    """Read the upgrade request and answer it."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    key = header(head, b"sec-websocket-key")
    digest = hashlib.sha1(key + GUID, usedforsecurity=False).digest()
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )


def read_request(connection: socket.socket) -> bool:
    """Read one request whole; returns whether there was one."""
    data = b""
    while True:
        part = connection.recv(2**20)
        if not part:
            return False
        data += part
        head, end, body = data.partition(b"\r\n\r\n")
        if end and len(body) >= int(header(head, b"content-length") or 0):
            return True


def main() -> None:
    """Serve until the process is ended."""
    listeners = {
        name: socket.create_server(("127.0.0.1", 0), backlog=4096)
        for name in ("public", "internal")
    }
    devices: list[socket.socket] = []
    selector = selectors.DefaultSelector()
    for name, listener in listeners.items():
        selector.register(listener, selectors.EVENT_READ, name)
    ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}
    print(json.dumps(ports), flush=True)
    while True:
        for key, _ in selector.select():
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            if key.data == "emitter":
                if not read_request(ready):
                    selector.unregister(ready)
                    ready.close()
                    continue
                for device in devices:
                    device.send(FRAME)
                ready.sendall(RESPONSE)
                continue
            connection, _ = ready.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if key.data == "public":
                shake_hands(connection)
                devices.append(connection)
            else:
                selector.register(connection, selectors.EVENT_READ, "emitter")


if __name__ == "__main__":
    main()
