//! "Hello, World!" on GET /; anything else is 404.

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Hello;

impl Guest for Hello {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        if matches!(request.method(), Method::Get) && path == "/" {
            answer(outparam, 200, b"Hello, World!");
        } else {
            answer(outparam, 404, b"only GET / is here\n");
        }
    }
}

fn answer(outparam: ResponseOutparam, status: u16, text: &[u8]) {
    let headers = Fields::new();
    let _ = headers.append("content-type", b"text/plain");
    let response = OutgoingResponse::new(headers);
    let _ = response.set_status_code(status);
    let Ok(body) = response.body() else { return };
    ResponseOutparam::set(outparam, Ok(response));

    if let Ok(stream) = body.write() {
        // An error here says that the client is gone, and then nobody waits for the rest.
        let _ = stream.blocking_write_and_flush(text);
    }
    let _ = OutgoingBody::finish(body, None);
}

wasi::http::proxy::export!(Hello);
