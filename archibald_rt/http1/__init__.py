"""HTTP/1.1 under the two applications: bytes read by llhttp, answers on the bare socket.

Tornado's applications and handlers work on whatever implements its `HTTPConnection`; this is
one for servers, without a stream, a task and three futures for each request.
"""
