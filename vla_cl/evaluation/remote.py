"""A policy on another machine as a controller: `vla-cl serve` there, `RemoteController` here."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from vla_cl import __version__
from vla_cl.data import ObservationBatch
from vla_cl.envs import ObservationOptions
from vla_cl.errors import ConfigurationError, ServerError
from vla_cl.evaluation.controller import Controller
from vla_cl.evaluation.served import ServedPolicy, read_welcome
from vla_cl.evaluation.serving import bearer
from vla_cl.evaluation.wire import MAX_MESSAGE, Message, one_line, pack, query, read_array, unpack

UNAUTHORIZED = 401
RETRIES = 6

logger = logging.getLogger(__name__)


class RemoteController(Controller):
    """The policy of a server.

    Its actions are those of a `PolicyController` on the server's machine, bit for bit. A connection that breaks is made
    again and the query repeated, which changes nothing, because a query holds all that its answer depends on. One
    thread at a time may use it.

    Args:
        address: "ws://host:port"; "wss://host" for a proxy that encrypts.
        token: What the server wants to be shown, if it wants something.
        timeout: Seconds within which the server must answer a call; a query takes as long as it takes.
        retries: How often a broken connection is made again for one query.
        pause: Seconds before the first of these attempts; before each further one it doubles.

    Attributes:
        address: Of the server.
        served: What the server said of its policy.
        execute: Actions to execute before the next query.
        history: Moments that an observation must show (see `ObservationBatch.past`).
        temporal_ensemble: As of a `Controller`.

    Raises:
        ConfigurationError: The address is none, or the token cannot be one.
        ServerError: Nobody listens there, somebody else does, or the server wants another token or version.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        timeout: float = 10.0,
        retries: int = RETRIES,
        pause: float = 0.5,
    ) -> None:
        self.address = address
        self._bearer = bearer(token)
        self._timeout, self._retries, self._pause = timeout, retries, pause
        self._connection: ClientConnection | None = None
        self._leave = ExitStack()
        self.served = self._call()
        self.execute = self.served.execute
        self.history = self.served.features.history
        self.temporal_ensemble = self.served.temporal_ensemble
        self.told_task = self.served.told_task
        if self.served.version != __version__:
            told = one_line(self.served.version)
            logger.warning("the policy server runs vla_cl %s, this is %s; results may differ", told, __version__)

    @property
    def observation(self) -> ObservationOptions:
        """What environments must show to the policy."""
        return self.served.observation

    def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        """Chunks of actions (B, chunk, A) in [-1, 1], as of a `Controller`.

        Raises:
            ConfigurationError: A camera is missing that the policy sees, or the simulator's state.
            ServerError: The server refuses the query, or stays away.
        """
        packed = pack(query(observation, seeds, self.served.features))
        if len(packed) > MAX_MESSAGE:
            raise ConfigurationError(
                f"a query of {len(observation)} rows has {len(packed) >> 20} MiB, a server takes {MAX_MESSAGE >> 20}; "
                "ask for fewer rows at a time"
            )
        reply = self._ask(packed)
        if "error" in reply:
            raise ServerError(f"the policy server at {self.address} refused: {one_line(reply['error'])}")
        shape = (len(observation), self.served.ahead, self.served.features.action_dim)
        try:
            return read_array(reply.get("actions"), "actions", "float32", shape)
        except ServerError as error:
            raise ServerError(f"the policy server at {self.address} answered wrongly: {error}") from error

    def close(self) -> None:
        """Leave the server; a later query comes back to it."""
        self._connection = None
        self._leave.close()

    def __enter__(self) -> RemoteController:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, packed: bytes) -> Message:
        """The reply to a query."""
        lost: Exception | None = None
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(self._pause * 2 ** (attempt - 1))
            try:
                connection = self._connection or self._call_again()
                connection.send(packed)
                return unpack(connection.recv())
            except (ConnectionClosed, OSError, _UnreachableError) as error:
                if lost is None:
                    logger.warning("lost the policy server at %s; trying to reach it again", self.address)
                lost = error
                self.close()
            except BaseException:  # Ctrl-C, say: a late reply must not be taken for that to the next query
                self.close()
                raise
        raise ServerError(
            f"lost the policy server at {self.address} and did not reach it again in {self._retries} attempts "
            f"({one_line(lost)}); start it again there, then repeat this"
        ) from lost

    def _call_again(self) -> ClientConnection:
        if self._call() != self.served:
            raise ServerError(f"the server at {self.address} serves another policy than before; start again")
        assert self._connection is not None
        return self._connection

    def _call(self) -> ServedPolicy:
        """Connect, and listen to what the server says of itself."""
        with ExitStack() as stack:
            connection = self._connect(stack)
            try:
                served = read_welcome(unpack(connection.recv(self._timeout)))
            except (TimeoutError, ConnectionClosed) as error:
                raise _UnreachableError(f"the server at {self.address} did not say what it is") from error
            except ServerError as error:
                raise ServerError(f"cannot use the server at {self.address}: {error}") from error
            self._connection, self._leave = connection, stack.pop_all()
        return served

    def _connect(self, stack: ExitStack) -> ClientConnection:
        """A connection that ends with the stack."""
        try:
            opening = connect(
                self.address,
                additional_headers={} if self._bearer is None else {"Authorization": self._bearer},
                compression=None,
                proxy=None,
                open_timeout=self._timeout,
                close_timeout=1.0,
                max_size=MAX_MESSAGE,
            )
            return stack.enter_context(opening)
        except (InvalidURI, ValueError) as error:  # a port out of range is a plain ValueError
            raise ConfigurationError(f"a server's address reads like ws://host:8765, got {self.address!r}") from error
        except InvalidStatus as error:
            if error.response.status_code == UNAUTHORIZED:
                raise ServerError(
                    f"the server at {self.address} wants {'another' if self._bearer else 'a'} token; "
                    "give it with --token or VLA_CL_SERVER_TOKEN"
                ) from error
            raise _UnreachableError(f"{self.address} is no vla_cl policy server: {one_line(error)}") from error
        except InvalidHandshake as error:
            raise _UnreachableError(f"{self.address} is no vla_cl policy server: {one_line(error)}") from error
        except TimeoutError as error:
            raise _UnreachableError(f"nobody answers at {self.address} within {self._timeout:g} s") from error
        except OSError as error:
            told = one_line(error.strerror or error)
            raise _UnreachableError(
                f"there is no server at {self.address} ({told}); start one there with vla-cl serve CHECKPOINT"
            ) from error


class _UnreachableError(ServerError):
    """A server that may be there in a moment: it may be starting again."""
