"""Signed files: Ed25519 (RFC 8032), through `cryptography`, in `deliveries[seal]`.

A file is worth what its public key is: whoever can exchange the file can exchange a key inside it. So the key
is given by who checks, and never taken from the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from deliveries.errors import CallerError, InvalidSeal

MOST = 1 << 30
"""Bytes of a file that is read at all."""


class Signed(Struct, frozen=True):
    """What is in the file."""

    seal: Raw
    signature: bytes


def new_key(path: str | os.PathLike[str]) -> Path:
    """Make a private key, in PEM, for its owner alone, and beside it `.pub`, which may be known.

    Returns the public key's path. Raises: CallerError where one of the files exists.
    """
    ed25519, serialization = _cryptography()
    key = ed25519.Ed25519PrivateKey.generate()
    public = Path(f"{os.fspath(path)}.pub")
    raw = serialization.Encoding.PEM
    _write(
        Path(path), key.private_bytes(raw, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    _write(public, key.public_key().public_bytes(raw, serialization.PublicFormat.SubjectPublicKeyInfo), 0o644)
    return public


def write(path: str | os.PathLike[str], data: bytes, key: str | os.PathLike[str]) -> None:
    """Write JSON `data` to a new file, signed with the private key in the file `key`. Raises: CallerError."""
    ed25519, serialization = _cryptography()
    try:
        private = serialization.load_pem_private_key(_read(key, "key"), password=None)
    except (ValueError, TypeError) as error:
        raise CallerError(f"key {os.fspath(key)!r} is no private key without a password: {error}") from None
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise CallerError(f"key {os.fspath(key)!r} is no Ed25519 key")
    _write(Path(path), msgspec.json.encode(Signed(Raw(data), private.sign(data))) + b"\n")


def read(path: str | os.PathLike[str], public_key: str | os.PathLike[str]) -> bytes:
    """What was signed, if it was with the private half of `public_key`. Raises: InvalidSeal, CallerError."""
    from cryptography.exceptions import InvalidSignature

    ed25519, serialization = _cryptography()
    try:
        public = serialization.load_pem_public_key(_read(public_key, "public_key"))
    except ValueError as error:
        raise CallerError(f"public_key {os.fspath(public_key)!r} is no public key: {error}") from None
    if not isinstance(public, ed25519.Ed25519PublicKey):
        raise CallerError(f"public_key {os.fspath(public_key)!r} is no Ed25519 key")
    try:
        signed = msgspec.json.decode(_read(path, "seal"), type=Signed)
        public.verify(signed.signature, bytes(signed.seal))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSeal(f"{os.fspath(path)}: no signed file: {error}") from None
    except InvalidSignature:
        raise InvalidSeal(f"{os.fspath(path)}: not signed with this key, or changed since") from None
    return bytes(signed.seal)


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError:
        raise CallerError("seals need cryptography: pip install 'deliveries[seal]'") from None
    return ed25519, serialization


def _read(path: str | os.PathLike[str], what: str) -> bytes:
    try:
        if os.stat(path).st_size > MOST:
            raise InvalidSeal(f"{os.fspath(path)}: more than {MOST} bytes")
        return Path(path).read_bytes()
    except OSError as error:
        raise CallerError(f"{what} {os.fspath(path)!r}: {error.strerror}") from None


def _write(path: Path, data: bytes, mode: int = 0o600) -> None:
    try:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise CallerError(f"{path}: {error.strerror}") from None
    with os.fdopen(opened, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
