"""Addresses of engines: what they say, and how they are shown without the secrets in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from hybridmem_plugins.errors import EngineError

T = TypeVar("T")

_SCHEME = re.compile(r"[a-z][a-z0-9+.\-]+://", re.IGNORECASE)
_SCHEME_OF_PATH = re.compile(r"[a-z][a-z0-9+.\-]+:/", re.IGNORECASE)
_SECRET = re.compile(r"(?i)\b(password|passfile|sslkey|sslpassword|token|api_?key|secret)=[^&\s]*")
_USER_INFO = re.compile(r"(?<=://)[^@/?#\s]*@")
# A schema is written into SQL as an identifier and into libpq's options, where only these need no quoting.
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def is_address(path: Any) -> bool:
    """Say whether something is an engine's address rather than a folder.

    >>> is_address("postgresql://host/memory"), is_address("folder/memory")
    (True, False)
    """
    return isinstance(path, str) and not isinstance(path, Path) and _SCHEME.match(path) is not None


def check_folder(path: Any) -> None:
    """Refuse a `Path` that was made of an address: of its `//` one `/` is left, and it would name a folder.

    Raises:
        ValueError: It is one.
    """
    if isinstance(path, Path) and _SCHEME_OF_PATH.match(path.as_posix()):
        msg = f"{without_secrets(path.as_posix().replace(':/', '://', 1))} is a Path; give an address as a string"
        raise ValueError(msg)


def without_secrets(text: str) -> str:
    """Return a text with the users and passwords of addresses in it, and whatever looks like a secret, left out.

    >>> without_secrets("cannot reach postgresql://ann:pass@host/db?password=word&x=1")
    'cannot reach postgresql://…@host/db?password=…&x=1'
    """
    return _SECRET.sub(lambda found: f"{found[1]}=…", _USER_INFO.sub("…@", text))


def asked(what: str, call: Callable[[], T]) -> T:
    """Return what a call to a database of others gives, any error of it being an `EngineError` without secrets.

    Args:
        what: Which database, for the error's text.
        call: The call.

    Raises:
        EngineError: The call failed.
    """
    try:
        return call()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = without_secrets(f"{what}: {type(error).__name__}: {reason}")
        raise EngineError(msg) from None


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """Where a memory lies in PostgreSQL.

    Attributes:
        target: What libpq connects to; kept out of representations, since it may hold a password.
        schema: The database schema that holds the memory.
        timeout: Seconds that anything may take.
        shown: The address without secrets.
    """

    target: str = field(repr=False)
    schema: str
    timeout: float
    shown: str

    @classmethod
    def parse(cls, address: str, schema: str | None = None, timeout: float | None = None) -> PostgresAddress:
        """Read an address; `?schema=` and `?timeout=` in it are this package's, the rest is libpq's.

        Raises:
            ValueError: A schema that is no plain lower-case identifier, or a timeout that is no positive number.
        """
        try:
            parts = urlsplit(address)
            _ = parts.port  # reading it checks it
            options = dict(parse_qsl(parts.query, keep_blank_values=True))
        except ValueError:
            msg = "this is no address; write postgresql://user@host:port/database?schema=memory"
            raise ValueError(msg) from None
        named = schema or options.pop("schema", None) or "hybridmem"
        options.pop("schema", None)
        given = options.pop("timeout", None)
        if not _SCHEMA.fullmatch(named):
            msg = f"the schema must be lower-case letters, digits and underscores, not {named!r}"
            raise ValueError(msg)
        target = urlunsplit(parts._replace(query=urlencode(options)))
        return cls(target, named, _seconds(timeout if timeout is not None else given), _shown(parts, options, named))


def _seconds(given: Any) -> float:
    try:
        seconds = 10.0 if given is None else float(given)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 < seconds < 1e6:
        msg = f"the timeout must be a positive number of seconds, not {given!r}"
        raise ValueError(msg)
    return seconds


def _shown(parts: Any, options: dict[str, str], schema: str) -> str:
    host = parts.netloc.rpartition("@")[2] or unquote(options.get("host", "localhost"))
    return f"postgresql://{host}{parts.path}?schema={schema}"
