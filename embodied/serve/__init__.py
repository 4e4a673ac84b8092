"""A policy server over WebSockets, in the message form of openpi, and a client that never applies a stale action.

    messages    msgpack in and out, every limit checked before anything is built
    access      which clients may connect: loopback, or a token
    servable    what can be served, and the check of an observation
    inference   one thread, one waiting request per client, served in turn
    server      connections, deadlines, /healthz and /metrics
    policy      a trained policy as a servable
    client      a small synchronous client

Nothing outside this folder imports `websockets` or `msgpack`.
"""

from embodied.types import InputError

try:
    import msgpack as _msgpack  # noqa: F401
    import websockets as _websockets  # noqa: F401
except ModuleNotFoundError as error:
    raise InputError(f"serve: package '{error.name}' is missing; run: pip install \"embodied-stack[serve]\"") from None
