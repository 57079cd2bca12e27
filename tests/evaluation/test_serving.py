"""A policy behind a socket: what crosses it is exact, and whatever else arrives there does no harm."""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import serve

from vla_cl.data import ObservationBatch, Statistics
from vla_cl.errors import ConfigurationError, ServerError
from vla_cl.evaluation import Controller, PolicyController, PolicyServer, RemoteController, ServedPolicy
from vla_cl.evaluation.served import PROTOCOL, read_welcome, welcome
from vla_cl.evaluation.wire import MAX_MESSAGE, MAX_ROWS, array, pack, query, read_array, read_query, unpack
from vla_cl.policies import Policy, PolicyConfig, PolicyFeatures, build_policy

FEATURES = PolicyFeatures(action_dim=3, agent_pos_dim=5, cameras=("wrist", "front"), image_size=64, history=2)


def served_for(policy: Policy, **changes: Any) -> ServedPolicy:
    config = policy.config
    values = {"version": "0.1.0", "policy": config.name, "fingerprint": "f00d", "features": policy.features}
    values |= {"chunk": config.chunk, "execute": config.execute, "lookback": config.lookback}
    return ServedPolicy(**{**values, **changes})


@pytest.fixture(scope="module")
def policy() -> Policy:
    """Untrained, on two cameras and two moments, with a chunk that begins in the past."""
    config = PolicyConfig(
        backbone="compact",
        backbone_options={"width": 32, "layers": 1, "heads": 2, "instruction_encoder": "learned"},
        head="flow",
        head_options={"width": 32, "steps": 2},
        chunk=6,
        execute=3,
        history=2,
        lookback=1,
        temporal_ensemble=0.1,
    )
    built = build_policy(config, FEATURES, seed=0)
    ones = {"action": ((-1.0,) * 3, (1.0,) * 3), "agent_pos": ((-1.0,) * 5, (1.0,) * 5)}
    built.set_statistics(Statistics.from_ranges(ones))
    return built


@pytest.fixture
def server(policy: Policy) -> Iterator[PolicyServer]:
    with PolicyServer(PolicyController(policy), served_for(policy, temporal_ensemble=0.1), port=0) as running:
        yield running


def observations(rows: int, features: PolicyFeatures = FEATURES, seed: int = 0) -> ObservationBatch:
    generator = torch.Generator().manual_seed(seed)
    side = features.image_size

    def moment() -> ObservationBatch:
        return ObservationBatch(
            instruction=tuple(f"drücke Knopf {row}" for row in range(rows)),
            agent_pos=torch.randn(rows, features.agent_pos_dim, generator=generator),
            pixels={
                camera: torch.randint(0, 256, (rows, side, side, 3), generator=generator).to(torch.uint8)
                for camera in features.cameras
            },
            environment_state=torch.randn(rows, 4, generator=generator) if features.environment_state_dim else None,
        )

    past = tuple(moment() for _ in range(features.history - 1))
    return dataclasses.replace(moment(), past=past)


@contextmanager
def raw(server: PolicyServer) -> Iterator[ClientConnection]:
    """A client that has been welcomed, and may now send what it likes."""
    with connect(server.address, max_size=None, compression=None) as connection:
        connection.recv()
        yield connection


def asked(server: PolicyServer, message: bytes | str) -> dict[str, Any]:
    with raw(server) as connection:
        connection.send(message)
        reply: dict[str, Any] = msgpack.unpackb(connection.recv())
        return reply


# --- what crosses the wire ---------------------------------------------------------------------------------------


@given(
    st.sampled_from(["uint8", "float32"]),
    st.lists(st.integers(0, 5), max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_an_array_crosses_the_wire_bit_for_bit(dtype: str, shape: list[int], seed: int) -> None:
    size = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    values = np.frombuffer(np.random.default_rng(seed).bytes(size), dtype).reshape(shape)  # NaNs of all kinds, too
    read = read_array(unpack(pack({"a": array(values)}))["a"], "a", dtype, tuple(shape))
    assert read.dtype == values.dtype and read.shape == values.shape
    assert read.tobytes() == values.tobytes()
    assert read.flags.writeable


def test_an_array_that_is_not_contiguous_is_sent_as_it_reads() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-3]
    np.testing.assert_array_equal(read_array(array(values), "a", "float32", (2, 2)), values)


@pytest.mark.parametrize("values", [np.zeros(2), np.array(["a"]), np.array([object()]), np.zeros(2, np.int32)])
def test_no_other_type_of_array_is_sent(values: NDArray[Any]) -> None:
    with pytest.raises(ConfigurationError, match="uint8 or float32"):
        array(values)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_query_holds_what_the_policy_sees_and_nothing_else(rows: int) -> None:
    sent = observations(rows)
    more = {"pixels": {**sent.pixels, "unseen": sent.pixels["wrist"]}, "environment_state": torch.zeros(rows, 9)}
    seeds = [2**63 - 1 - row for row in range(rows)]
    read, read_seeds = read_query(unpack(pack(query(dataclasses.replace(sent, **more), seeds, FEATURES))), FEATURES)
    assert read_seeds == seeds
    for mine, theirs in zip(sent.moments, read.moments, strict=True):
        assert theirs.instruction == mine.instruction
        assert torch.equal(theirs.agent_pos, mine.agent_pos)
        assert theirs.environment_state is None
        assert set(theirs.pixels) == set(mine.pixels)
        assert all(torch.equal(theirs.pixels[camera], mine.pixels[camera]) for camera in mine.pixels)


def test_a_client_misses_a_camera_before_it_asks() -> None:
    sent = observations(2)
    blind = dataclasses.replace(sent, pixels={"front": sent.pixels["front"]})
    with pytest.raises(ConfigurationError, match="sees through camera 'wrist'; the observation has front"):
        query(blind, [0, 1], FEATURES)
    with pytest.raises(ConfigurationError, match="environment_state"):
        query(sent, [0, 1], dataclasses.replace(FEATURES, environment_state_dim=4))


def test_a_welcome_says_all_of_a_policy(policy: Policy) -> None:
    served = served_for(policy, suite="mw3", tasks=("a", "b"), stage=1, temporal_ensemble=0.5)
    assert read_welcome(unpack(pack(welcome(served)))) == served


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"service": "other"}, "no vla_cl policy server"),
        ({"protocol": PROTOCOL + 1}, f"protocol {PROTOCOL + 1} .vla_cl 0.1.0., this is protocol {PROTOCOL}"),
        ({"serves": None}, "serves must be a map"),
        ({"serves.chunk": "6"}, "serves.chunk must be int, got '6'"),
        ({"serves.chunk": True}, "serves.chunk must be int"),
        ({"serves.execute": 0}, "execute=0"),
        ({"serves.execute": 6}, "execute=6"),
        ({"serves.tasks": [3]}, "list of strings"),
        ({"serves.temporal_ensemble": "m"}, "temporal_ensemble"),
        ({"serves.features": {}}, "serves.features lacks 'action_dim'"),
        ({"serves.policy": "a\x1b[2J\nb" * 300, "serves.chunk": "x\x1b\n" * 999}, "serves.chunk"),
    ],
)
def test_a_welcome_that_cannot_be_used_is_refused(policy: Policy, changes: dict[str, Any], complaint: str) -> None:
    message = unpack(pack(welcome(served_for(policy))))
    for key, value in changes.items():
        *path, last = key.split(".")
        (message[path[0]] if path else message)[last] = value
    with pytest.raises(ServerError, match=complaint) as refused:
        read_welcome(message)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 700


# --- a server and its client -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 4])
def test_a_remote_policy_acts_as_the_local_one_bit_for_bit(policy: Policy, server: PolicyServer, rows: int) -> None:
    local = PolicyController(policy)
    seeds = [11 * row for row in range(rows)]
    with RemoteController(server.address) as remote:
        assert (remote.execute, remote.history, remote.temporal_ensemble) == (3, 2, 0.1)
        assert remote.observation.cameras == FEATURES.cameras
        for seed in range(3):
            mine = local.act(observations(rows, seed=seed), seeds)
            theirs = remote.act(observations(rows, seed=seed), seeds)
            assert theirs.shape == (rows, 5, 3)
            np.testing.assert_array_equal(theirs, mine)


def test_clients_that_ask_at_the_same_time_get_their_own_answers(policy: Policy, server: PolicyServer) -> None:
    local = PolicyController(policy)
    answers: dict[int, list[NDArray[np.float32]]] = {}

    def ask(client: int) -> None:
        with RemoteController(server.address) as remote:
            answers[client] = [remote.act(observations(2, seed=10 * client + n), [client, n]) for n in range(5)]

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in range(4):
        for n, answer in enumerate(answers[client]):
            expected = local.act(observations(2, seed=10 * client + n), [client, n])
            np.testing.assert_array_equal(answer, expected)


def test_what_the_policy_refuses_is_one_line_at_the_client_who_may_go_on(server: PolicyServer) -> None:
    with RemoteController(server.address) as remote:
        with pytest.raises(ServerError, match="refused: moments must be a list of 2, oldest first, got 1"):
            remote.act(dataclasses.replace(observations(1), past=()), [0])
        wide = dataclasses.replace(observations(1), agent_pos=torch.zeros(1, 9))
        with pytest.raises(ServerError, match="agent_pos has 9 numbers, the policy takes 5 at most"):
            remote.act(wide, [0])
        with pytest.raises(ServerError, match="instruction must be a list of 2 strings"):
            remote.act(observations(1), [0, 1])
        assert remote.act(observations(1), [0]).shape == (1, 5, 3)


# --- whatever else arrives ---------------------------------------------------------------------------------------


def corrupted(**changes: Any) -> bytes:
    """A query of one row in which something is something else; "moments__0__pixels" is a path."""
    message = unpack(pack(query(observations(1), [0], FEATURES)))
    for path, value in changes.items():
        *parts, last = path.split("__")
        place: Any = message
        for part in parts:
            place = place[int(part)] if part.isdigit() else place[part]
        place[last] = value
    packed: bytes = msgpack.packb(message)
    return packed


IMAGE = {"dtype": "uint8", "shape": [1, 64, 64, 3], "data": bytes(64 * 64 * 3)}


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (b"", "msgpack"),
        (b"\xc1", "msgpack"),
        (b"\x91" * 100_000, "msgpack"),
        (b"\xdf\xff\xff\xff\xff", "msgpack"),
        (pack({}) + b"\x00", "msgpack"),
        (b"\x81\xa1\xff\x00", "msgpack"),
        (b"\x93\x01\x02\x03", "got list"),
        ("hello", "binary"),
        (pack({}), "seeds"),
        (corrupted(seeds=[0.5]), "integers"),
        (corrupted(seeds=[]), "1 to 4096 rows, got 0"),
        (corrupted(seeds=[0] * (MAX_ROWS + 1)), "rows"),
        (corrupted(moments=[]), "moments must be a list of 2"),
        (corrupted(moments=[1, 2]), "a moment must be a map, got int"),
        (corrupted(moments__0__instruction="push"), "list of 1 strings"),
        (corrupted(moments__0__instruction=[b"push"]), "list of 1 strings"),
        (corrupted(moments__1__pixels={}), "'wrist' must be an array of uint8, 1 x 64 x 64 x 3, got nothing"),
        (corrupted(moments__1__pixels=[]), "map of cameras: wrist, front"),
        (corrupted(moments__1__pixels__front=IMAGE | {"dtype": "object"}), "got object"),
        (corrupted(moments__1__pixels__front=IMAGE | {"dtype": "float32"}), "got float32"),
        (corrupted(moments__1__pixels__front=IMAGE | {"shape": [1, 64, 64, 4]}), "got uint8, 1 x 64 x 64 x 4"),
        (corrupted(moments__1__pixels__front=IMAGE | {"shape": [-1, 64, 64, -3]}), "no list of sizes"),
        (corrupted(moments__1__pixels__front=IMAGE | {"shape": [2**62, 2**62]}), "got uint8"),
        (corrupted(moments__1__pixels__front=IMAGE | {"data": b"short"}), "got 5 bytes"),
        (corrupted(moments__1__pixels__front=IMAGE | {"data": "text"}), "got str"),
        (corrupted(moments__1__agent_pos={"dtype": "float32", "shape": [1, 2**40], "data": b""}), "got 0 bytes"),
        (corrupted(moments__1__agent_pos=msgpack.ExtType(5, b"code")), "got ExtType"),
    ],
    ids=range(27),
)
def test_a_malformed_message_is_answered_by_one_line_and_the_connection_goes_on(
    server: PolicyServer, message: bytes | str, complaint: str
) -> None:
    with raw(server) as connection:
        connection.send(message)
        reply = msgpack.unpackb(connection.recv())
        assert set(reply) == {"error"} and reply["error"].isprintable()
        assert complaint in reply["error"]
        connection.send(corrupted())
        assert set(msgpack.unpackb(connection.recv())) == {"actions"}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_message_does_more_than_a_line(data: st.DataObject) -> None:
    """Queries with a few bytes changed: either they still are queries, or the error is ours."""
    message = bytearray(corrupted())
    header = 400  # where the structure lies, and not the pixels
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.one_of(st.integers(0, header), st.integers(len(message) - header, len(message) - 1)))
        message[place] = data.draw(st.integers(0, 255))
    try:
        observation, seeds = read_query(unpack(bytes(message)), FEATURES)
    except ServerError as error:
        assert "\n" not in str(error)
    else:
        assert len(observation) == len(seeds) == 1


def test_an_oversized_message_ends_its_connection_with_a_reason_and_the_server_lives_on(server: PolicyServer) -> None:
    with raw(server) as connection:
        with pytest.raises(ConnectionClosed) as closed:
            connection.send(bytes(MAX_MESSAGE + 1))
            connection.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
    assert "actions" in asked(server, corrupted())


def test_a_client_does_not_send_what_the_server_would_not_take(server: PolicyServer) -> None:
    sent = observations(1)
    rows = MAX_MESSAGE // (4 * 64 * 64 * 3) + 1
    many = sent[[0] * rows]
    with RemoteController(server.address) as remote, pytest.raises(ConfigurationError, match="ask for fewer rows"):
        remote.act(many, [0] * rows)


def test_a_policy_that_fails_does_not_take_the_server_along(policy: Policy) -> None:
    class Moody(PolicyController):
        def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
            if seeds[0] == 13:
                raise RuntimeError("out of\nmemory")
            return super().act(observation, seeds)

    with PolicyServer(Moody(policy), served_for(policy), port=0) as server, RemoteController(server.address) as remote:
        with pytest.raises(ServerError, match="refused: the policy failed: RuntimeError: out of memory"):
            remote.act(observations(1), [13])
        assert remote.act(observations(1), [0]).shape == (1, 5, 3)


def test_a_client_that_vanishes_leaves_the_others_alone(server: PolicyServer) -> None:
    with raw(server) as gone:
        gone.send(corrupted())
        gone.socket.shutdown(socket.SHUT_RDWR)
        assert "actions" in asked(server, corrupted())


def test_a_web_page_is_turned_away(server: PolicyServer) -> None:
    page = {"Origin": "http://localhost:8000"}
    with pytest.raises(InvalidStatus) as refused, connect(server.address, additional_headers=page):
        pass
    assert refused.value.response.status_code == 403


# --- tokens ------------------------------------------------------------------------------------------------------


def test_a_token_opens_and_nothing_else_does(policy: Policy) -> None:
    with PolicyServer(PolicyController(policy), served_for(policy), port=0, token="s3cret") as server:
        with RemoteController(server.address, token="s3cret") as remote:
            assert remote.act(observations(1), [0]).shape == (1, 5, 3)
        with pytest.raises(ServerError, match="wants a token; give it with --token or VLA_CL_SERVER_TOKEN"):
            RemoteController(server.address)
        for wrong in ("s3cre", "s3cret2", "S3cret"):
            with pytest.raises(ServerError, match="wants another token"):
                RemoteController(server.address, token=wrong)


@pytest.mark.parametrize("token", ["", "two words", "line\r\nX: y", "schlüssel"])
def test_a_token_that_no_header_can_carry_is_refused(policy: Policy, token: str) -> None:
    with pytest.raises(ConfigurationError, match="token must be"):
        PolicyServer(PolicyController(policy), served_for(policy), port=0, token=token)
    with pytest.raises(ConfigurationError, match="token must be"):
        RemoteController("ws://127.0.0.1:1", token=token)


def test_listening_to_everybody_without_a_token_is_warned_about(
    policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    for host, token, warned in (("0.0.0.0", None, True), ("0.0.0.0", "t", False), ("127.0.0.1", None, False)):
        caplog.clear()
        with PolicyServer(PolicyController(policy), served_for(policy), host=host, port=0, token=token):
            assert ("may query this policy" in caplog.text) == warned


# --- connections that are not there ------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def test_no_server_there_is_one_line() -> None:
    with pytest.raises(ServerError, match=r"no server at ws://127.0.0.1:\d+ .Connection refused.; start one"):
        RemoteController(f"ws://127.0.0.1:{free_port()}")


@pytest.mark.parametrize("address", ["", "127.0.0.1:8765", "http://127.0.0.1:1", "ws://:1", "ws://127.0.0.1:99999"])
def test_an_address_that_is_none_is_one_line(address: str) -> None:
    with pytest.raises(ConfigurationError, match="reads like ws://host:8765"):
        RemoteController(address)


def test_another_kind_of_server_is_told_apart() -> None:
    """One that says something else first, one that says nothing, and one that does not even shake hands."""

    def chatty(connection: Any) -> None:
        connection.send("welcome to the weather service")

    def other(connection: Any) -> None:
        connection.send(pack({"service": "weather"}))

    def silent(connection: Any) -> None:
        connection.recv()

    for handler, complaint in ((chatty, "binary"), (other, "is no vla_cl"), (silent, "did not say what it is")):
        with serve(handler, "127.0.0.1", 0) as strange:
            thread = threading.Thread(target=strange.serve_forever)
            thread.start()
            port = strange.socket.getsockname()[1]
            with pytest.raises(ServerError, match=complaint):
                RemoteController(f"ws://127.0.0.1:{port}", timeout=0.5)
            strange.shutdown()
            thread.join()
    complaint = r"nobody answers at .* within 0.3 s"
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(ServerError, match=complaint):
        RemoteController(f"ws://127.0.0.1:{mute.getsockname()[1]}", timeout=0.3)


def test_a_port_that_is_taken_is_one_line(policy: Policy, server: PolicyServer) -> None:
    port = int(server.address.rpartition(":")[2])
    with pytest.raises(ConfigurationError, match=f"port {port} of 127.0.0.1 is taken"):
        PolicyServer(PolicyController(policy), served_for(policy), port=port)
    with pytest.raises(ConfigurationError, match=r"0 .any free one. to 65535, got 70000"):
        PolicyServer(PolicyController(policy), served_for(policy), port=70000)


class Dropping(Controller):
    """Acts as another, but its first connection breaks in the middle of query `when`."""

    def __init__(self, inner: Controller, when: int) -> None:
        self.inner, self.when, self.queries = inner, when, 0
        self.execute, self.history = inner.execute, inner.history
        self.drop = lambda: None

    def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        self.queries += 1
        if self.queries == self.when:
            self.drop()
        return self.inner.act(observation, seeds)


def test_a_query_whose_connection_breaks_is_repeated_exactly(policy: Policy) -> None:
    dropping = Dropping(PolicyController(policy), when=2)
    server = PolicyServer(dropping, served_for(policy), port=0)
    with server, RemoteController(server.address, pause=0.01) as remote:
        broken = remote._connection
        assert broken is not None
        dropping.drop = lambda: broken.socket.shutdown(socket.SHUT_RDWR)
        for n in range(4):
            expected = PolicyController(policy).act(observations(2, seed=n), [n, n])
            np.testing.assert_array_equal(remote.act(observations(2, seed=n), [n, n]), expected)
        assert remote._connection is not broken
        assert dropping.queries == 5


def test_a_server_that_starts_again_is_found_again(policy: Policy) -> None:
    first = PolicyServer(PolicyController(policy), served_for(policy), port=0)
    port = int(first.address.rpartition(":")[2])
    remote = RemoteController(first.address, pause=0.1)
    expected = remote.act(observations(1), [5])
    first.close()
    started: list[PolicyServer] = []

    def start() -> None:
        started.append(PolicyServer(PolicyController(policy), served_for(policy), port=port))

    timer = threading.Timer(0.3, start)
    timer.start()
    np.testing.assert_array_equal(remote.act(observations(1), [5]), expected)
    remote.close()
    timer.join()
    started[0].close()


def test_a_server_that_stays_away_is_one_line(policy: Policy) -> None:
    server = PolicyServer(PolicyController(policy), served_for(policy), port=0)
    remote = RemoteController(server.address, pause=0.01, retries=3)
    server.close()
    with pytest.raises(ServerError, match=r"did not reach it again in 3 attempts .*start it again there"):
        remote.act(observations(1), [0])


def test_another_policy_at_the_same_address_is_not_taken_for_the_first(policy: Policy) -> None:
    first = PolicyServer(PolicyController(policy), served_for(policy), port=0)
    remote = RemoteController(first.address, pause=0.01)
    first.close()
    port = int(first.address.rpartition(":")[2])
    second = PolicyServer(PolicyController(policy), served_for(policy, fingerprint="beef"), port=port)
    with second, pytest.raises(ServerError, match="serves another policy than before"):
        remote.act(observations(1), [0])


def test_a_reply_to_an_interrupted_query_is_not_taken_for_the_next_ones(policy: Policy) -> None:
    local = PolicyController(policy)

    with PolicyServer(local, served_for(policy), port=0) as server, RemoteController(server.address) as remote:
        assert remote._connection is not None

        def interrupted() -> bytes:
            raise KeyboardInterrupt

        remote._connection.recv = interrupted  # type: ignore[method-assign,assignment]
        with pytest.raises(KeyboardInterrupt):
            remote.act(observations(1, seed=1), [1])
        np.testing.assert_array_equal(remote.act(observations(1), [0]), local.act(observations(1), [0]))
