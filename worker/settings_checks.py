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

from worker.lora_folder import is_lora_file, lora_file

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# botocore's own rule for a bucket, and the ARN of an access point.
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}|arn:[A-Za-z0-9:/._-]+")
_BROKER = re.compile(
    r"((PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)://)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\])(:(?P<port>\d{1,5}))?"
)
MAX_PORT = 65_535
# What signature version 4 allows a presigned URL.
_S3_LIFETIME_MAX_S = 604_800


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


def in_any_case(value: object) -> object:
    """Text in lower case, for settings whose values are words; anything else passes."""
    return value.lower() if isinstance(value, str) else value


def no_trailing_slash(value: str | None) -> str | None:
    """An address without the slash at its end; `none` counts as no value."""
    return None if value is None or value == "none" else value.rstrip("/")


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
    is_file = is_lora_file(path)
    try:
        there = path.is_file() if is_file else path.is_dir()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if not there:
        raise ValueError(f"{path} is no {'file' if is_file else 'folder'}")
    if is_file and lora_file(path.parent, path.stem) != path:
        raise ValueError(f"there is another file of the same name, {lora_file(path.parent, path.stem)}")
    if not os.access(path, os.R_OK if is_file else os.R_OK | os.X_OK):
        raise ValueError(f"{path} cannot be read: no permission")


def url_signing(kind: str, lifetime_s: int, *, cloudfront_url: str | None, key_given: tuple[bool, bool]) -> None:
    """What signs picture URLs, and whether it has what it needs.

    Args:
        key_given: whether the id of the CloudFront key, and the file of its private key, are set.

    Raises:
        ValueError: the settings contradict each other.
    """
    names = "CLOUDFRONT_KEY_PAIR_ID and CLOUDFRONT_PRIVATE_KEY_PATH"
    if kind == "cloudfront" and not (cloudfront_url and all(key_given)):
        raise ValueError(f"URL_SIGNING=cloudfront needs CLOUDFRONT_URL, {names}")
    if kind != "cloudfront" and any(key_given):
        raise ValueError(f"{names} are only used with URL_SIGNING=cloudfront")
    if kind == "s3" and cloudfront_url:
        raise ValueError("URL_SIGNING=s3 signs the bucket's own address: it contradicts CLOUDFRONT_URL")
    if kind == "s3" and lifetime_s > _S3_LIFETIME_MAX_S:
        raise ValueError(f"URL_LIFETIME_S is at most {_S3_LIFETIME_MAX_S} (7 days) with URL_SIGNING=s3")


def picture_sizes(value: str) -> tuple[tuple[int, int], ...]:
    """Sizes of pictures, as `1024x1024,832x1216`: (width, height) in pixels, each once.

    Raises:
        ValueError: a side is no multiple of 8, which every SDXL's are.
    """
    sizes = dict.fromkeys(tuple(int(side) for side in size.split("x")) for size in value.split(","))
    if any(side % 8 for size in sizes for side in size):
        raise ValueError("the sides of pictures are multiples of 8")
    return tuple((width, height) for width, height in sizes)


def compilation(mode: str, *, deterministic: bool, refiner_offload: bool) -> None:
    """What COMPILE=on cannot go with; COMPILE=auto gives way to it.

    Raises:
        ValueError: the settings contradict each other.
    """
    if mode == "on" and not deterministic:
        raise ValueError("COMPILE=on needs DETERMINISTIC: without it, calls have no shape of their own")
    if mode == "on" and refiner_offload:
        raise ValueError("COMPILE=on contradicts REFINER_OFFLOAD, which moves the weights that compiled steps use")
