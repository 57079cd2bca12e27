"""A policy behind a WebSocket, so that it runs on one machine and the simulator, or the robot, on another."""

from __future__ import annotations

import errno
import hmac
import http
import ipaddress
import logging
import socket
import threading
from types import TracebackType

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from vla_cl.errors import ConfigurationError, VlaClError
from vla_cl.evaluation.controller import Controller
from vla_cl.evaluation.served import ServedPolicy, welcome
from vla_cl.evaluation.wire import MAX_MESSAGE, array, one_line, pack, read_query, unpack

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8765
CLOSE_TIMEOUT = 2.0
"""Seconds that a client has to agree to the end of a connection."""
GOING_AWAY = 1001

logger = logging.getLogger(__name__)
_library_logger = logging.getLogger(f"{__name__}.websockets")
_library_logger.addFilter(lambda record: _library_logger.isEnabledFor(logging.DEBUG))  # its tracebacks are for --debug


class PolicyServer:
    """Answers queries in threads of its own from the moment it is built until `close`, or the end of its `with` block.

    Clients may be many; their queries wait for each other. Nothing of a query outlives its answer. Requests that come
    from a web page are turned away: a page that somebody reads on this machine must not steer a robot.

    Args:
        controller: Who acts.
        served: What clients are told of it.
        host: Name or address of the interface to listen on. There is no encryption, and no authentication but the
            token: outside of a private network, listen on 127.0.0.1 and let ssh or a proxy bring clients there.
        port: 0 takes any free one.
        token: What a client must show; None asks for none.

    Attributes:
        address: "ws://host:port", for `RemoteController`.

    Raises:
        ConfigurationError: It cannot listen there, or the token is empty.
    """

    def __init__(
        self,
        controller: Controller,
        served: ServedPolicy,
        *,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        token: str | None = None,
    ) -> None:
        self._controller = controller
        self._served = served
        self._bearer = bearer(token)
        self._acting = threading.Lock()
        self._connections: set[ServerConnection] = set()
        self._closing = False
        listening = _listen(host, port)
        self.address = f"ws://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        if token is None and not _is_local(listening):
            logger.warning("whoever reaches %s may query this policy; ask for a token, or listen locally", self.address)
        self._server = serve(
            self._talk,
            sock=listening,
            process_request=self._admit,
            origins=[None],
            compression=None,
            max_size=MAX_MESSAGE,
            max_queue=1,
            close_timeout=CLOSE_TIMEOUT,
            logger=_library_logger,
        )
        self._thread = threading.Thread(target=self._server.serve_forever, name="policy server")
        self._thread.start()

    def wait(self) -> None:
        """Return once the server was closed from another thread; a Ctrl-C is raised here."""
        self._thread.join()

    def close(self) -> None:
        """End all connections, and listen no more. A query that is being answered is lost to its client."""
        self._closing = True
        for connection in list(self._connections):
            connection.close(GOING_AWAY, "the policy server ends")
        self._server.shutdown()
        self._thread.join()

    def __enter__(self) -> PolicyServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Turn a client away that does not know the token."""
        if self._bearer is None:
            return None
        shown = ",".join(request.headers.get_all("Authorization"))
        if hmac.compare_digest(shown.encode(errors="surrogateescape"), self._bearer.encode()):  # in constant time
            return None
        logger.warning("a client of %s showed no valid token", _peer(connection))
        return connection.respond(http.HTTPStatus.UNAUTHORIZED, "this policy server wants a token\n")

    def _talk(self, connection: ServerConnection) -> None:
        """One client, from its arrival to its leaving."""
        queries, peer = 0, _peer(connection)
        self._connections.add(connection)
        logger.info("client %s came", peer)
        try:
            connection.send(pack(welcome(self._served)))
            while not self._closing:
                connection.send(self._answer(connection.recv()))
                queries += 1
        except ConnectionClosed as closed:
            logger.debug("the connection of client %s ended: %s", peer, closed)
        finally:
            self._connections.discard(connection)
            logger.info("client %s left after %d queries", peer, queries)

    def _answer(self, received: bytes | str) -> bytes:
        """The reply to one message, whatever it holds."""
        try:
            observation, seeds = read_query(unpack(received), self._served.features)
            with self._acting:
                actions = self._controller.act(observation, seeds)
            return pack({"actions": array(actions)})
        except VlaClError as error:
            return pack({"error": one_line(error)})
        except Exception as error:  # whatever a policy does, the next client should find a server
            failure = one_line(f"the policy failed: {type(error).__name__}: {error}")
            logger.error("%s", failure, exc_info=logger.isEnabledFor(logging.DEBUG))
            return pack({"error": failure})


def bearer(token: str | None) -> str | None:
    """The HTTP header `Authorization` of clients that know a token.

    Raises:
        ConfigurationError: The token is empty, or holds anything but visible ASCII.
    """
    if token is None:
        return None
    if not token or not all("!" <= character <= "~" for character in token):
        raise ConfigurationError("a server's token must be letters, digits and punctuation of ASCII, without spaces")
    return f"Bearer {token}"


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens."""
    place = f"port {port} of {host}"
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"a port is 0 (any free one) to 65535, got {port}")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ConfigurationError(f"{place} is taken; choose another port (0 takes any free one)") from error
        told = str(getattr(error, "strerror", error)).split(" (while")[0]
        raise ConfigurationError(f"cannot listen on {place}: {told}; name an address of this machine") from error


def _is_local(listening: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    host: str = listening.getsockname()[0]
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _peer(connection: ServerConnection) -> str:
    host, port, *_ = connection.remote_address
    return f"{host}:{port}"
