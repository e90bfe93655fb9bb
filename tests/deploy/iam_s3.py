"""An S3 in memory behind a real boto3 client. It allows what an IAM policy allows, and notes what was used of it.

As at AWS, one who may not list the bucket is told 403 where there is no object.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

# The right that each operation of boto3 takes: AWS's "Actions, resources, and condition keys for Amazon S3".
RIGHTS = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "HeadBucket": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "DeleteObjects": "s3:DeleteObject",
    "GetBucketVersioning": "s3:GetBucketVersioning",
}
BUCKET = "dream-ai-media"
_ARN = f"arn:aws:s3:::{BUCKET}"


class _Raw(io.BytesIO):
    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        while chunk := self.read(65_536):
            yield chunk


class IamS3:
    """The bucket of one role.

    Attributes:
        objects: by key.
        used: (action, resource) of the policy's statements that something was allowed by.
        denied: what was asked for without a right, as (operation, key).
    """

    def __init__(self, policy: Mapping[str, Any], objects: dict[str, bytes] | None = None) -> None:
        self.policy = policy
        self.objects = {} if objects is None else objects
        self.used: set[tuple[str, str]] = set()
        self.denied: list[tuple[str, str]] = []

    def attach(self, client: Any) -> None:
        """Answer the client's requests in place of AWS."""
        client.meta.events.register("before-send.s3", self._answer)

    def granted(self) -> set[tuple[str, str]]:
        """All (action, resource) pairs of the policy."""
        return {(a, r) for s in self.policy["Statement"] for a in s["Action"] for r in s["Resource"]}

    def _allows(self, action: str, resource: str) -> bool:
        fitting = {(a, r) for a, r in self.granted() if a == action and fnmatchcase(resource, r)}
        self.used |= fitting
        return bool(fitting)

    def _answer(self, request: Any, event_name: str, **_: Any) -> AWSResponse:
        operation = event_name.rpartition(".")[2]
        parts = urlsplit(request.url)
        assert parts.netloc.split(".")[0] == BUCKET, parts.netloc
        key = unquote(parts.path.lstrip("/"))
        if operation == "DeleteObjects":
            return self._delete(request)
        right = RIGHTS[operation]
        if not self._allows(right, f"{_ARN}/{key}" if key else _ARN):
            self.denied.append((operation, key))
            return _response(request, 403, _error("AccessDenied"))
        return self._allowed(request, operation, key, parse_qs(parts.query))

    def _allowed(self, request: Any, operation: str, key: str, query: Mapping[str, list[str]]) -> AWSResponse:
        match operation:
            case "PutObject":
                if request.headers.get("If-None-Match") and key in self.objects:
                    return _response(request, 412, _error("PreconditionFailed"))
                self.objects[key] = _bytes(request.body)
                return _response(request, 200, b"", ETag='"1"')
            case "GetObject" | "HeadObject":
                if key not in self.objects:
                    may_list = self._allows("s3:ListBucket", _ARN)
                    return (
                        _response(request, 404, _error("NoSuchKey"))
                        if may_list
                        else _response(request, 403, _error("AccessDenied"))
                    )
                body = self.objects[key] if operation == "GetObject" else b""
                return _response(request, 200, body, ETag='"1"')
            case "ListObjectsV2":
                return _response(request, 200, self._listing(query))
            case "GetBucketVersioning":
                return _response(
                    request, 200, b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
                )
        return _response(request, 200, b"")

    def _listing(self, query: Mapping[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        keys = sorted(key for key in self.objects if key.startswith(prefix))
        items = "".join(f"<Contents><Key>{escape(key)}</Key></Contents>" for key in keys)
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode()

    def _delete(self, request: Any) -> AWSResponse:
        wrong = ""
        for key in re.findall(r"<Key>([^<]+)</Key>", _bytes(request.body).decode()):
            if self._allows("s3:DeleteObject", f"{_ARN}/{key}"):
                self.objects.pop(key, None)
            else:
                self.denied.append(("DeleteObjects", key))
                wrong += f"<Error><Key>{escape(key)}</Key><Code>AccessDenied</Code></Error>"
        return _response(request, 200, f"<DeleteResult>{wrong}</DeleteResult>".encode())


def _bytes(body: Any) -> bytes:
    found = body if isinstance(body, bytes | bytearray) else body.read()
    return bytes(found)


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


def _response(request: Any, status: int, body: bytes, **headers: str) -> AWSResponse:
    headers |= {"Content-Length": str(len(body)), "Content-Type": "application/xml"}
    return AWSResponse(request.url, status, HTTPHeaders.from_dict(headers), _Raw(body))
