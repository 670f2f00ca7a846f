""" "Hello, World!" on GET /; anything else is 404.

componentize-py turns the world's imports into modules under wit_world and asks for its exports as classes.
"""

from componentize_py_types import Ok
from wit_world.exports import IncomingHandler as IncomingHandlerBase
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    Method_Get,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)


def answer(outparam: ResponseOutparam, status: int, text: bytes) -> None:
    response = OutgoingResponse(Fields.from_list([("content-type", b"text/plain")]))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(outparam, Ok(response))

    with body.write() as stream:
        stream.blocking_write_and_flush(text)
    OutgoingBody.finish(body, None)


class IncomingHandler(IncomingHandlerBase):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        path = (request.path_with_query() or "/").split("?")[0]
        if isinstance(request.method(), Method_Get) and path == "/":
            answer(response_out, 200, b"Hello, World!")
        else:
            answer(response_out, 404, b"only GET / is here\n")
