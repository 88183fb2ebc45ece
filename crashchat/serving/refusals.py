"""How requests are answered that fail: on paths of OpenAI's clients as these expect it, else as FastAPI does.

A full disk of this machine is no fault of the request: it is told so (503), and when to ask again.
"""

from fastapi import FastAPI, HTTPException, Request
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException

from crashchat.errors import FULL
from crashchat.serving.chat import ChatError, Error, ErrorBody

BUSY = {"Retry-After": "10"}
FULL_DISK = "the server's disk is full; ask again when there is room"


def _for_clients(request: Request) -> bool:
    """Whether a path is one of OpenAI's clients."""
    return request.url.path.startswith("/v1/")


def _told(error: ChatError) -> JSONResponse:
    kind = "invalid_request_error" if error.status < 429 else "server_error"
    body = Error(error=ErrorBody(message=str(error), type=kind, code=error.status))
    return JSONResponse(body.model_dump(), error.status, BUSY if error.status in (429, 503) else None)


def add_refusals(app: FastAPI) -> None:
    """Answer what an app's paths raise."""

    @app.exception_handler(ChatError)
    async def refused(_: Request, error: ChatError) -> Response:
        return _told(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        if not _for_clients(request):
            return await request_validation_exception_handler(request, error)
        first = error.errors()[0]
        return _told(ChatError(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"))

    @app.exception_handler(OSError)
    async def failed(request: Request, error: OSError) -> Response:
        if error.errno not in FULL:
            raise error
        if _for_clients(request):
            return _told(ChatError(503, FULL_DISK))
        return await http_exception_handler(request, HTTPException(503, FULL_DISK, BUSY))

    @app.exception_handler(AnyHTTPException)
    async def told(request: Request, error: AnyHTTPException) -> Response:
        # FastAPI takes whatever goes wrong while a body is read for the body's fault.
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
            return await failed(request, error.__cause__)
        return await http_exception_handler(request, error)
