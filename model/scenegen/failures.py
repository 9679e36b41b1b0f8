"""What can go wrong between a client and its generation server: an exception each, in words that say what to do.

Knows answers and errors of HTTP; sends nothing itself.
"""

from __future__ import annotations

from typing import Any

import httpx

from scenegen.address import Address
from scenegen.scene import InvalidInput
from scenegen.wire import Event, Failure


class ServerError(Exception):
    """The generation server did not give a scene. The message says why and what to do."""


class ServerUnreachable(ServerError):
    """Nothing that speaks this protocol answers at the address. The request was not accepted."""


class ServerNotReady(ServerError):
    """The server is there but has no model: it is still loading, loading failed, or (a segmenter) none was given."""


class ServerBusy(ServerError):
    """The server's queue is full. retry_after: seconds after which it wants to be asked again."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unauthorized(ServerError):
    """The token is missing or wrong."""


class RequestTooLarge(ServerError):
    """The request is over one of the server's limits."""


class GenerationFailed(ServerError):
    """The server accepted the request and failed at it."""


class ConnectionLost(ServerError):
    """The connection broke after the request was sent: whether the server finished is unknown."""


def unreachable(address: Address, error: Exception) -> ServerUnreachable:
    """No connection could be made."""
    if is_certificate_error(error):
        return ServerUnreachable(
            f"{address} shows a certificate that is not trusted ({error}): give the PEM file of the "
            "authority that signed it, and use the host name it was made for"
        )
    return ServerUnreachable(
        f"no generation server answers at {address} ({str(error) or type(error).__name__}): start one with "
        "`scenegen serve`, or correct the address"
    )


def lost(address: Address, why: object) -> ConnectionLost:
    """The connection broke after the request had been sent."""
    return ConnectionLost(
        f"the connection to {address} broke during the generation ({str(why) or type(why).__name__}): the "
        "server stopped or the network failed; look at the server's log and send the request again"
    )


def refusal(address: Address, response: httpx.Response) -> Exception:
    """The exception for an answer that is not a stream of events (DESIGN section 8: each its own)."""
    answer = answer_of(response)
    error = str(answer.get("error", f"{address} answered {response.status_code}"))
    message = ": ".join(filter(None, (error, str(answer.get("hint", "")))))
    status = response.status_code
    if "error" not in answer:
        return ServerUnreachable(
            f"what answers at {address} is not a generation server of this version (HTTP {status}): correct the address"
        )
    if status == 401:
        return Unauthorized(message)
    if status in (413, 408):
        return RequestTooLarge(message)
    if status == 422:
        return InvalidInput(message)
    if status == 503 and "Retry-After" in response.headers:
        return ServerBusy(message, float(response.headers["Retry-After"]))
    if status in (501, 503):
        return ServerNotReady(message)
    return GenerationFailed(message)


def failure(event: Event) -> Exception:
    """The exception for an event that is neither progress nor the result."""
    if not isinstance(event, Failure):
        return GenerationFailed(f"the server answered with {type(event).__name__}: run one version on both ends")
    if event.kind == "InvalidInput":
        return InvalidInput(event.message)
    if event.kind == "ServerStopping":
        return ConnectionLost(event.message)
    return GenerationFailed(event.message)


def answer_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of a response that was read; empty when it is none."""
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def is_certificate_error(error: Exception) -> bool:
    """Whether a connection was not made for the certificate that the server showed."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)
