"""One Kafka and one S3 store for all processes of a test run.

With xdist every process runs tests, and a broker for each costs a minute of a core. Here the process that hands out the
tests starts a server when the first test asks for it, and stops it at the end of the run; it answers the others on a
socket. Without xdist the one process asks itself.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from tempfile import TemporaryDirectory

from devtools.local.kafka import KafkaCluster
from devtools.local.seaweedfs import SeaweedFS

BUCKET = "pictures"


class SharedServers:
    """Starts each server once, when it is first asked for; `port` may be called from any thread."""

    def __init__(self, starts: Mapping[str, Callable[[ExitStack], int]]) -> None:
        """`starts`: by name, what starts a server, leaves its end to the stack, and returns its port."""
        self._starts = starts
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._ports: dict[str, int] = {}

    def port(self, name: str) -> int:
        """The port of the server, once it answers."""
        with self._lock:
            if name not in self._ports:
                self._ports[name] = self._starts[name](self._stack)
            return self._ports[name]

    def stop(self) -> None:
        """Stop what was started."""
        with self._lock:
            self._stack.close()


def start_kafka(stack: ExitStack) -> int:
    """Start a broker."""
    cluster = stack.enter_context(KafkaCluster(1, _folder(stack)))
    return int(cluster.bootstrap_servers.rpartition(":")[2])


def start_s3(stack: ExitStack) -> int:
    """Start a store with the bucket."""
    return stack.enter_context(SeaweedFS(_folder(stack), BUCKET)).port


def _folder(stack: ExitStack) -> Path:
    return Path(stack.enter_context(TemporaryDirectory(prefix="tests-", ignore_cleanup_errors=True)))


class Desk:
    """Answers the processes of xdist: they send a server's name, and get its port or the error of its start."""

    def __init__(self, servers: SharedServers) -> None:
        self._servers = servers
        self._key = secrets.token_bytes(16)
        self._listener = Listener(authkey=self._key)
        threading.Thread(target=self._listen, name="shared-servers", daemon=True).start()

    @property
    def address(self) -> tuple[str, str]:
        """What `ask` needs: the socket and the key, as plain text for xdist."""
        return str(self._listener.address), self._key.hex()

    def close(self) -> None:
        """Answer nobody any more."""
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                asking = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._answer, args=[asking], daemon=True).start()

    def _answer(self, asking: Connection) -> None:
        with asking:
            try:
                asking.send(self._servers.port(asking.recv()))
            except Exception as error:  # told by the test that asked
                asking.send(f"{type(error).__name__}: {error}")


def ask(address: tuple[str, str], name: str) -> int:
    """The port of a server, from another process.

    Raises:
        RuntimeError: it could not be started.
    """
    socket, key = address
    with Client(socket, authkey=bytes.fromhex(key)) as desk:
        desk.send(name)
        answer = desk.recv()
    if not isinstance(answer, int):
        raise RuntimeError(f"{name} was not started: {answer}")
    return answer
