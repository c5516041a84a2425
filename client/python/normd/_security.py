"""Who the server is, and who calls: TLS, and the token that each call carries."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import grpc  # type: ignore[import]

_log = logging.getLogger("normd")

PathLike = Union[str, "os.PathLike[str]"]

# More than any server takes in the headers of a call.
_MOST_BYTES = 4096
# What RFC 6750 (section 2.1) allows.
_NO_TOKEN = re.compile(r"[^A-Za-z0-9\-._~+/=]")


@dataclass(frozen=True)
class Tls:
    """A connection with TLS, as to a server with --tls-cert. The files are in PEM, and read when the client is made.

    Attributes:
        root_certificates: file of the authorities that may vouch for the server. None: those that come with grpcio, or
            that GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.
        certificate_chain, private_key: files of this client's certificate, followed by those that lead to its
            authority, and of its key, which has no password: for a server that asks for one (--tls-client-ca). Both or
            neither.
        server_name: that the server's certificate must be for. None: the target's host.
    """

    root_certificates: Optional[PathLike] = None
    certificate_chain: Optional[PathLike] = None
    private_key: Optional[PathLike] = None
    server_name: Optional[str] = None

    def credentials(self) -> Any:
        """For a channel.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file does not hold what it should, or one of two is missing.
        """
        if (self.certificate_chain is None) != (self.private_key is None):
            got, other = (("certificate_chain", "private_key") if self.private_key is None
                          else ("private_key", "certificate_chain"))
            raise ValueError(f"got tls.{got} without {other}, want both or neither")
        # Grpc would only say that no connection comes about.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        roots = chain = key = None
        if self.root_certificates is not None:
            try:
                context.load_verify_locations(self.root_certificates)
            except ssl.SSLError:
                raise ValueError(f"tls.root_certificates {os.fspath(self.root_certificates)!r} holds no certificate in "
                                 "PEM (BEGIN CERTIFICATE)") from None
            roots = Path(self.root_certificates).read_bytes()
        if self.certificate_chain is not None and self.private_key is not None:
            chain, key = Path(self.certificate_chain).read_bytes(), Path(self.private_key).read_bytes()
            try:
                # Without the password it would ask the terminal.
                context.load_cert_chain(self.certificate_chain, self.private_key, password="")
            except ssl.SSLError as wrong:
                what = "do not belong together" if wrong.reason == "KEY_VALUES_MISMATCH" else \
                    "are not a certificate and a key without a password, in PEM"
                raise ValueError(f"tls.certificate_chain {os.fspath(self.certificate_chain)!r} and tls.private_key "
                                 f"{os.fspath(self.private_key)!r} {what}") from None
        return grpc.ssl_channel_credentials(roots, key, chain)


@dataclass(frozen=True, repr=False)
class Security:
    """What a client was told of the two; see Client. It is checked when a channel is opened."""

    tls: Union[Tls, bool, None] = None
    token: Optional[str] = None
    token_file: Optional[PathLike] = None
    allow_token_without_tls: bool = False

    def open(self, kind: Any, target: str, options: list[tuple[str, Any]]) -> Any:
        """A channel, whose calls carry the token. `kind` is grpc or grpc.aio. Raises OSError and ValueError."""
        tls = Tls() if self.tls is True else self.tls or None
        if tls is not None and is_unix_socket(target):
            raise ValueError(f"got tls for {target!r}, want none: Unix sockets have no TLS")
        credentials = None if tls is None else tls.credentials()
        token = self._token(target, tls is not None)
        if tls is None:
            channel = kind.insecure_channel(target, options=options)
        else:
            name = [] if tls.server_name is None else [("grpc.ssl_target_name_override", tls.server_name)]
            channel = kind.secure_channel(target, credentials, options=options + name)
        return channel if token is None else _TokenChannel(channel, token)

    def _token(self, target: str, encrypted: bool) -> Optional[_Token]:
        if self.token is None and self.token_file is None:
            return None
        if self.token is not None and self.token_file is not None:
            raise ValueError("got both token and token_file, want one of them")
        if not (encrypted or self.allow_token_without_tls or is_unix_socket(target) or is_loopback(target)):
            raise ValueError(f"a token would travel to {target!r} for anyone to read: want tls, a Unix socket or "
                             "loopback, or allow_token_without_tls=True")
        if self.token is not None:
            return _Token(_checked(self.token, "token"), None)
        assert self.token_file is not None
        return _Token(_read(self.token_file), self.token_file)


class _Token:
    """The token as it is now: `file` is read for each call. Thread-safe."""

    def __init__(self, token: str, file: Optional[PathLike]) -> None:
        self._header, self._file = f"Bearer {token}", file
        self._warned = False
        self._lock = threading.Lock()

    def header(self) -> str:
        """The header's value. While the file cannot be used, the last one: it may be replaced in two steps."""
        if self._file is None:
            return self._header
        try:
            header = f"Bearer {_read(self._file)}"
        except (OSError, ValueError) as error:
            with self._lock:
                warned, self._warned = self._warned, True
                if not warned:
                    _log.warning("%s; calls go on with the token of before", error)
                return self._header
        with self._lock:
            self._header, self._warned = header, False
        return header


class _TokenChannel:
    """A channel whose methods put a token on every call."""

    def __init__(self, channel: Any, token: _Token) -> None:
        self._channel, self._token = channel, token

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._channel, name)
        if name not in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            return found
        return lambda *args, **kwargs: _TokenMethod(found(*args, **kwargs), self._token)


class _TokenMethod:
    def __init__(self, method: Any, token: _Token) -> None:
        self._method, self._token = method, token

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._method(*args, **self._with_token(kwargs))

    def future(self, *args: Any, **kwargs: Any) -> Any:
        return self._method.future(*args, **self._with_token(kwargs))

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        return self._method.with_call(*args, **self._with_token(kwargs))

    def _with_token(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        others = tuple(kwargs.get("metadata") or ())
        return {**kwargs, "metadata": (*others, ("authorization", self._token.header()))}


def _read(file: PathLike) -> str:
    with open(file, encoding="latin-1") as opened:
        return _checked(opened.read(_MOST_BYTES + 64).rstrip(), f"token_file {os.fspath(file)!r}")


def _checked(token: str, whose: str) -> str:
    if not token:
        raise ValueError(f"{whose} is empty")
    if len(token) > _MOST_BYTES:
        raise ValueError(f"{whose} has more than {_MOST_BYTES} bytes")
    wrong = _NO_TOKEN.search(token)
    if wrong is not None:
        raise ValueError(f"{whose} holds, as character {wrong.start() + 1}, what is neither a letter, a digit, nor one "
                         "of - . _ ~ + / =")
    return token


def is_unix_socket(target: str) -> bool:
    """Whether gRPC takes the target for one."""
    return target.startswith(("unix:", "unix-abstract:"))


def is_loopback(target: str) -> bool:
    """Whether it is one address of 127.0.0.0/8, ::1, or the name localhost; what may name anything else is not."""
    host = target
    for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:"):
        if target.startswith(scheme):
            host = target[len(scheme):]
            break
    if host.startswith("["):
        host, end, _ = host[1:].partition("]")
        host = host if end else ""
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
