// "Hello, World!" on GET /; anything else is 404.
// componentize-js gives the imports of the world as modules and asks for its exports as objects.

import { Fields, OutgoingBody, OutgoingResponse, ResponseOutparam } from "wasi:http/types@0.2.12";

const encoder = new TextEncoder();

function answer(outparam, status, text) {
  const headers = Fields.fromList([["content-type", encoder.encode("text/plain")]]);
  const response = new OutgoingResponse(headers);
  response.setStatusCode(status);
  const body = response.body();
  ResponseOutparam.set(outparam, { tag: "ok", val: response });

  const stream = body.write();
  stream.blockingWriteAndFlush(encoder.encode(text));
  stream[Symbol.dispose](); // before the body is finished: a stream is the child of its body
  OutgoingBody.finish(body, undefined);
}

export const incomingHandler = {
  handle(request, outparam) {
    const path = (request.pathWithQuery() ?? "/").split("?")[0];
    if (request.method().tag === "get" && path === "/") {
      answer(outparam, 200, "Hello, World!");
    } else {
      answer(outparam, 404, "only GET / is here\n");
    }
  },
};
