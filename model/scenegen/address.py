"""Where a generation server listens: one written form for the server, the client and the launch files.

Knows nothing about HTTP beyond the three forms `unix:/path`, `http://host:port` and `https://host:port`.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from scenegen.scene import InvalidInput

_FORMS = "unix:/path/to.sock, http://127.0.0.1:8765 or https://host:8765"
_UNIX_PATH_LIMIT = 107  # bytes of sockaddr_un.sun_path, less its final zero


@dataclass(frozen=True)
class Address:
    """scheme, and then a path (unix) or a host and port."""

    scheme: Literal["unix", "http", "https"]
    path: str = ""
    host: str = ""
    port: int = 0

    @staticmethod
    def parse(text: str) -> Address:
        """InvalidInput when the text is none of the three forms. A path may begin with ~."""
        if text.startswith("unix:"):
            path = os.path.expanduser(text.removeprefix("unix:"))
            if not path.startswith("/") or len(path.encode()) > _UNIX_PATH_LIMIT:
                raise InvalidInput(
                    f"the socket path {path!r} must be absolute and at most {_UNIX_PATH_LIMIT} bytes long: "
                    "choose another, such as unix:/tmp/scenegen.sock"
                )
            return Address("unix", path=path)
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise InvalidInput(f"{text!r} is not a server address ({error}): use {_FORMS}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.username:
            raise InvalidInput(f"{text!r} is not a server address: use {_FORMS}")
        if port is None:
            raise InvalidInput(f"{text!r} lacks its port: use {_FORMS}")
        return Address("https" if parts.scheme == "https" else "http", host=parts.hostname, port=port)

    @property
    def is_local(self) -> bool:
        """True for a unix socket and for loopback: bytes sent there stay on this machine."""
        if self.scheme == "unix":
            return True
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError:
            return False
        return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"
