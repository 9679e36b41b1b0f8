"""Runs the application with uvicorn on a unix socket, or on TCP with TLS and a token, until SIGTERM.

Knows nothing about what the application does, except that its worker is to be stopped first.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from scenegen.address import Address
from scenegen.scene import InvalidInput
from scenegen.server.app import Limits, create_app
from scenegen.server.worker import SceneGenerator, ViewSegmenter, Worker

logger = logging.getLogger(__name__)

_STEP_S = 2.0
"""How long to wait for the sampler step at work when the server stops: `ros2 launch` kills after five seconds."""


def serve(
    load: Callable[[], SceneGenerator],
    listen: str,
    *,
    load_segmenter: Callable[[], ViewSegmenter] | None = None,
    token: str | None = None,
    certificate: str | None = None,
    key: str | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve at an address (`unix:/path`, `http://127.0.0.1:port`, `https://host:port`) until SIGTERM or Ctrl+C.

    load_segmenter: as create_app takes it. certificate, key: PEM files, for https. InvalidInput when the address cannot
    be used, or would be open to others: plain http is for loopback only, and beyond it a token is needed.
    """
    address = Address.parse(listen)
    _check_exposure(address, token, certificate, key)
    app = create_app(load, load_segmenter=load_segmenter, token=token, limits=limits)
    with _listening(address) as (listener, bound):
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            log_level="warning",
            ssl_certfile=certificate,
            ssl_keyfile=key,
            timeout_graceful_shutdown=5,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            message = (
                f"{certificate} and {key} are not a usable certificate and key ({error}): give PEM files that match"
            )
            raise InvalidInput(message) from error
        worker: Worker = app.state.worker
        with _terminated_by_exit():
            logger.info("listening on %s", bound)
            try:
                _Server(config, worker).run(sockets=[listener])
            except KeyboardInterrupt:
                pass
            finally:
                worker.stop(join_s=_STEP_S)
                logger.info("stopped")


class _Server(uvicorn.Server):
    """A uvicorn server that ends the generations first, so that it need not wait for them."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._worker.stop()
        await super().shutdown(sockets)


def _check_exposure(address: Address, token: str | None, certificate: str | None, key: str | None) -> None:
    if address.scheme == "https" and not (certificate and key):
        raise InvalidInput(f"{address} needs --certificate and --key, two PEM files")
    if address.scheme != "https" and (certificate or key):
        raise InvalidInput(f"{address} does not use a certificate: listen on https://, or leave it out")
    if address.is_local:
        return
    if address.scheme == "http":
        raise InvalidInput(
            f"{address} is open to the network and not encrypted: use https:// with --certificate and --key, "
            "or listen on loopback and bring the port over by a tunnel"
        )
    if token is None:
        raise InvalidInput(
            f"{address} is open to the network and has no token: give --token-file, or listen on loopback or a "
            "unix socket"
        )


@contextmanager
def _listening(address: Address) -> Iterator[tuple[socket.socket, Address]]:
    """The bound socket, and the address with the port that was really taken. A unix socket's file goes at the end."""
    if address.scheme == "unix":
        listener = _bind_unix(Path(address.path))
        made = os.stat(address.path)
        try:
            yield listener, address
        finally:
            listener.close()
            _remove_socket(Path(address.path), made)
        return
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise InvalidInput(f"cannot listen on {address}: {error.strerror or error}. Choose another port") from error
    with listener:
        yield listener, Address(address.scheme, host=address.host, port=listener.getsockname()[1])


def _bind_unix(path: Path) -> socket.socket:
    """A unix socket that only this user may open; a socket left behind by a server that died is replaced."""
    _clear_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise InvalidInput(f"cannot make the socket {path}: {error.strerror or error}. Choose another path") from error
    finally:
        os.umask(mask)
    return listener


def _clear_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidInput(f"{path} exists and is not a socket, so it is left alone: choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        answer = probe.connect_ex(str(path))
    if answer != errno.ECONNREFUSED:
        raise InvalidInput(f"another server listens on {path}: stop it, or choose another path")
    path.unlink()


def _remove_socket(path: Path, made: os.stat_result) -> None:
    try:
        if os.path.samestat(path.lstat(), made):
            path.unlink()
    except FileNotFoundError:
        pass


@contextmanager
def _terminated_by_exit() -> Iterator[None]:
    """SIGTERM ends the block by SystemExit(0), so that it is left in order. Only the main thread can do this."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
