"""Checks of settings' values by kind: text, URLs, addresses, names, files. Messages never repeat a value.

A value may be a secret that was put under the wrong name, so that only its form is told.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# botocore's own rule for a bucket, and the ARN of an access point.
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}|arn:[A-Za-z0-9:/._-]+")
_BROKER = re.compile(
    r"((PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)://)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\])(:(?P<port>\d{1,5}))?"
)
MAX_PORT = 65_535


def one_line(value: object) -> object:
    """Text without control characters and with nothing but UTF-8; anything else passes.

    Raises:
        ValueError: it is not.
    """
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(text, str):
        if _CONTROL.search(text):
            raise ValueError("it holds a line break or another control character")
        check_utf8(text)
    return value


def check_utf8(text: str) -> None:
    """Python hands on bytes of the environment that are no UTF-8 as lone surrogates.

    Raises:
        ValueError: the text has some.
    """
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError("it holds bytes that are not UTF-8")


def credential(value: SecretStr | None) -> SecretStr | None:
    """A key or a secret, which never has blanks.

    Raises:
        ValueError: it has, as when a file's last line break came along.
    """
    if value is not None and any(sign.isspace() for sign in value.get_secret_value()):
        raise ValueError("it holds blanks or line breaks; was the end of a line copied with it?")
    return value


def http_url(value: str) -> str:
    """An absolute http or https URL.

    Raises:
        ValueError: it is none; the message says in what.
    """
    if any(sign.isspace() for sign in value):
        raise ValueError("a URL has no blanks")
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https"):
        raise ValueError("a URL that starts with http:// or https:// is wanted")
    if not parts.hostname:
        raise ValueError("the URL names no host")
    _ = parts.port  # raises ValueError itself where it is no port
    return value


def signing_secret(text: str) -> bytes:
    """The key in a secret of https://www.standardwebhooks.com/: base64 of 24 to 64 bytes, mostly after `whsec_`.

    Raises:
        ValueError: it is none.
    """
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("whsec_ and base64 is wanted: echo whsec_$(openssl rand -base64 32) makes one") from None
    if not 24 <= len(key) <= 64:
        raise ValueError("base64 of 24 to 64 bytes is wanted: echo whsec_$(openssl rand -base64 32) makes one")
    return key


def bucket(value: str) -> str:
    """A bucket's name.

    Raises:
        ValueError: it is none.
    """
    if not _BUCKET.fullmatch(value):
        raise ValueError("the bucket's name alone is wanted, such as my-pictures: no URL, no path, no blanks")
    return value


def brokers(value: str) -> str:
    """Kafka's bootstrap servers: host:port, comma separated.

    Raises:
        ValueError: one of them is something else.
    """
    for number, server in enumerate(value.split(","), 1):
        found = _BROKER.fullmatch(server.strip())
        if found is None or not 0 < int(found["port"] or 1) <= MAX_PORT:
            raise ValueError(f"server {number} is not host:port; several are separated by commas")
    return value


def text_file(path: Path, encoding: str = "utf-8-sig") -> str:
    """The text of a small file of settings; a byte order mark does not count.

    Raises:
        ValueError: it cannot be read or is no UTF-8 text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path} is UTF-16 text: save it as UTF-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None
    if "\0" in text:
        raise ValueError(f"{path} is not text: it holds null bytes")
    return text


def lora_path(path: Path) -> None:
    """A folder of LoRAs, or one .safetensors file.

    Raises:
        ValueError: it is neither, or cannot be read.
    """
    is_file = path.suffix == ".safetensors"
    try:
        there = path.is_file() if is_file else path.is_dir()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if not there:
        raise ValueError(f"{path} is no {'file' if is_file else 'folder'}")
    if not os.access(path, os.R_OK if is_file else os.R_OK | os.X_OK):
        raise ValueError(f"{path} cannot be read: no permission")
