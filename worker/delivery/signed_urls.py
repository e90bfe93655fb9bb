"""Addresses that only those can use who were given them, and only for a while.

Signing is arithmetic: nothing is asked of CloudFront or S3, so a wrong key is noticed by the first browser, not here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from botocore.signers import CloudFrontSigner
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from worker.errors import SettingsError

# A plain URL of an object to one that is signed.
Sign = Callable[[str], str]


def cloudfront_signer(
    key_pair_id: str, key_file: Path, lifetime_s: int, clock: Callable[[], float] = time.time
) -> Sign:
    """What signs URLs with a CloudFront key pair, with a canned policy.

    https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-creating-signed-url-canned-policy.html

    Args:
        key_pair_id: the id of the public key, such as `K2JCJMDEHXQW5F`.
        key_file: the private key as PEM, RSA or ECDSA, without a passphrase.

    Raises:
        SettingsError: the file holds no such key.
    """
    signer = CloudFrontSigner(key_pair_id, _rsa_or_ecdsa(key_file))

    def sign(url: str) -> str:
        expires = datetime.fromtimestamp(clock(), UTC) + timedelta(seconds=lifetime_s)
        return signer.generate_presigned_url(url, date_less_than=expires)

    return sign


def _rsa_or_ecdsa(key_file: Path) -> Callable[[bytes], bytes]:
    """Signs a policy as CloudFront wants it, with SHA-1."""
    try:
        key = load_pem_private_key(key_file.read_bytes(), password=None)
    except OSError as error:
        raise SettingsError(f"CLOUDFRONT_PRIVATE_KEY_PATH: {key_file} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The reason may quote the file, which may be another secret.
        key = None
    if isinstance(key, RSAPrivateKey):
        return lambda message: key.sign(message, PKCS1v15(), SHA1())
    if isinstance(key, EllipticCurvePrivateKey):
        return lambda message: key.sign(message, ECDSA(SHA1()))
    raise SettingsError(
        f"CLOUDFRONT_PRIVATE_KEY_PATH: {key_file} holds no RSA or ECDSA private key in PEM without a passphrase"
    )
