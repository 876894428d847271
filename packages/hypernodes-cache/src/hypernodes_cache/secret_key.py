"""Finds or creates the secret key that entries are signed with."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import sys
from pathlib import Path

from hypernodes import ConfigurationError
from hypernodes_cache.regular_files import open_regular

ENVIRONMENT_VARIABLE = "HYPERNODES_CACHE_KEY"

_SIZE_BYTES = 32
_SHORTEST_PHRASE = 16


class SecretKeyError(Exception):
    """The secret key of this user can be neither read nor created; the message says why and what to do."""


def derive(phrase: str | bytes, source: str) -> bytes:
    """Return the key that is derived from a passphrase.

    Args:
        phrase: The passphrase that users or machines share.
        source: Name of the setting that it comes from, for messages.

    Raises:
        ConfigurationError: It is neither str nor bytes, or so short that it could be guessed.
    """
    if not isinstance(phrase, (str, bytes)):
        raise ConfigurationError(f"{source} must be str or bytes; got {type(phrase).__name__}")
    if len(phrase) < _SHORTEST_PHRASE:
        raise ConfigurationError(
            f"{source} must have at least {_SHORTEST_PHRASE} characters, or others could guess it; it has "
            f'{len(phrase)}. Make one with: python -c "import secrets; print(secrets.token_hex())"'
        )
    data = phrase.encode("utf-8", "surrogateescape") if isinstance(phrase, str) else phrase
    return hashlib.sha256(b"hypernodes cache key\0" + data).digest()


def from_environment() -> bytes | None:
    """Return the key derived from the environment variable, or None when it is not set.

    Raises:
        ConfigurationError: The passphrase is too short.
    """
    phrase = os.environ.get(ENVIRONMENT_VARIABLE)
    return derive(phrase, ENVIRONMENT_VARIABLE) if phrase else None


def fingerprint(key: bytes) -> str:
    """Return a short digest that distinguishes keys without revealing them."""
    return hashlib.sha256(b"fingerprint\0" + key).hexdigest()[:16]


def key_file() -> Path:
    """Return the file of this user's key, which is never in a cache directory, since others may write there."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(configured):
        folder = Path(configured)
    elif sys.platform == "win32":
        folder = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Application Support"
    else:
        folder = Path.home() / ".config"
    return folder / "hypernodes" / "cache.key"


def user_key() -> bytes:
    """Return the key of this user; it is created when there is none.

    Raises:
        SecretKeyError: It can be neither read nor created.
    """
    try:
        path = key_file()
    except RuntimeError as error:  # the home directory is unknown
        raise SecretKeyError(f"{error} {_remedy()}") from error
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SecretKeyError(f"the secret key {path} cannot be read: {error}. {_remedy()}") from error
    try:
        _create(path)
        return _read(path)
    except OSError as error:
        raise SecretKeyError(f"the secret key {path} cannot be created: {error}. {_remedy()}") from error


def _read(path: Path) -> bytes:
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        text = file.read(4096).strip()
    if os.name == "posix":
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise SecretKeyError(
                f"the secret key {path} can be read or written by others, so entries could be forged. Run "
                f"`chmod 600 {path}` if nobody has used it, or delete it: a new key is created, and old entries are "
                "computed again."
            )
        if status.st_uid not in (os.geteuid(), 0):
            raise SecretKeyError(f"the secret key {path} belongs to another user. {_remedy()}")
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != _SIZE_BYTES:
        raise SecretKeyError(
            f"{path} does not hold a secret key. Delete it: a new key is created, and old entries are computed again."
        )
    return key


def _create(path: Path) -> None:
    """Create the file, complete and private from the first moment, unless another process creates it first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_SIZE_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike a rename, never replaces a key that another process has created
        except FileExistsError:
            pass
        except OSError:  # a filesystem without hard links
            if not path.exists():
                os.rename(draft, path)
                return
    finally:
        draft.unlink(missing_ok=True)


def _remedy() -> str:
    return f"Set {ENVIRONMENT_VARIABLE}, or give DiskCache(key=...)."
