"""What a policy server says of itself when a client connects, and how the client reads it."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

from vla_cl.envs import ObservationOptions, RenderingOptions
from vla_cl.errors import ServerError
from vla_cl.evaluation.wire import Message, one_line
from vla_cl.policies import PolicyFeatures

SERVICE = "vla_cl"
PROTOCOL = 1
"""Goes up when messages change so that older servers or clients would misread them."""

T = TypeVar("T")


@dataclass(frozen=True)
class ServedPolicy:
    """What a server serves.

    Args:
        version: Of vla_cl on the server.
        policy: Name of the policy.
        fingerprint: Of the checkpoint: other weights have another.
        features: What the policy sees and does.
        chunk: Actions predicted at once, those of the past included.
        execute: How many of them to execute before the next query.
        lookback: How many lie in the past; they are never sent.
        temporal_ensemble: m of ACT's temporal ensembling, or None (see `PolicyConfig`).
        stage: Index of the last learned task; 0 outside of a run.
        suite: What the checkpoint's run learned; "" outside of a run.
        tasks: The suite's tasks that the run learned, in its order.
        rendering: How the images were drawn that it learned from.
        told_task: Whether a query must say which task each row is.

    Raises:
        ServerError: The numbers contradict each other.
    """

    version: str
    policy: str
    fingerprint: str
    features: PolicyFeatures
    chunk: int
    execute: int
    lookback: int = 0
    temporal_ensemble: float | None = None
    stage: int = 0
    suite: str = ""
    tasks: tuple[str, ...] = ()
    rendering: RenderingOptions = RenderingOptions()
    told_task: bool = False

    def __post_init__(self) -> None:
        if self.lookback < 0 or not 1 <= self.execute <= self.ahead or self.features.history < 1:
            raise ServerError(
                f"a server's policy cannot have chunk={self.chunk}, lookback={self.lookback}, "
                f"execute={self.execute} and history={self.features.history}"
            )

    @property
    def ahead(self) -> int:
        """Actions of a reply, from the present on."""
        return self.chunk - self.lookback

    @property
    def observation(self) -> ObservationOptions:
        """What environments must show to the policy."""
        return ObservationOptions(
            cameras=self.features.cameras,
            image_size=self.features.image_size,
            privileged=self.features.environment_state_dim > 0,
        )


def welcome(served: ServedPolicy) -> Message:
    """What the server says first."""
    return {"service": SERVICE, "protocol": PROTOCOL, "serves": dataclasses.asdict(served)}


def read_welcome(message: Message) -> ServedPolicy:
    """What the server serves.

    Raises:
        ServerError: It is another service, speaks another protocol, or says something else than it should.
    """
    if message.get("service") != SERVICE:
        raise ServerError("it is no vla_cl policy server")
    if message.get("protocol") != PROTOCOL:
        told = message.get("serves")
        version = one_line(told.get("version", "?")) if isinstance(told, dict) else "?"
        raise ServerError(
            f"it speaks protocol {one_line(message.get('protocol'))} (vla_cl {version}), this is protocol {PROTOCOL}; "
            "install the same version of vla_cl on both machines"
        )
    return _read(ServedPolicy, "serves", message.get("serves"))


def _read(kind: type[T], name: str, told: Any) -> T:
    """An instance of a dataclass from plain values; what a newer server says besides is passed over."""
    if not isinstance(told, dict):
        raise ServerError(f"{name} must be a map, got {type(told).__name__}")
    values = {}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name not in told:
            raise ServerError(f"{name} lacks {field.name!r}")
        values[field.name] = _value(hints[field.name], f"{name}.{field.name}", told[field.name])
    return kind(**values)


def _value(wanted: Any, name: str, told: Any) -> Any:
    if dataclasses.is_dataclass(wanted):
        return _read(typing.cast(type[Any], wanted), name, told)
    if wanted == tuple[str, ...]:
        if not isinstance(told, list) or not all(isinstance(each, str) for each in told):
            raise ServerError(f"{name} must be a list of strings")
        return tuple(told)
    number = isinstance(told, int) and not isinstance(told, bool) and wanted in (float, float | None)
    if not number and (not isinstance(told, wanted) or (isinstance(told, bool) and wanted is not bool)):
        raise ServerError(f"{name} must be {getattr(wanted, '__name__', wanted)}, got {one_line(repr(told))}")
    return told
