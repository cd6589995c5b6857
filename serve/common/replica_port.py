"""The port that Ray Serve opens in every replica for calls between deployments.

It takes pickles, asks for no token and, left to itself, listens on all interfaces: whoever reaches it runs code.
"""

from typing import Any

import ray
from grpc.aio import _server  # type: ignore[import-untyped]  # has no annotations

EVERYWHERE = "[::]:0"


def listen_on_the_node_only() -> None:
    """Have that port listen on the address by which the node joined its cluster: on a local cluster, loopback.

    Called in a deployment's constructor, before Serve opens the port. Serve has no setting for it.
    """
    server: Any = _server.Server
    opened = server.add_insecure_port
    if getattr(opened, "narrowed", False):
        return

    def narrowed(self: Any, address: str) -> int:
        own = f"{ray.util.get_node_ip_address()}:0"  # type: ignore[no-untyped-call]  # Ray does not annotate it
        port: int = opened(self, own if address == EVERYWHERE else address)
        return port

    narrowed.narrowed = True  # type: ignore[attr-defined]  # a mark on a function
    server.add_insecure_port = narrowed
