//! HTTP fields between the header's borrowed views and the `HeaderMap`s of the WASI side; error codes likewise.

use crate::error::Fault;
use crate::ffi::{Field, HttpError, LENGTH_UNKNOWN, Str};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use wasmtime_wasi_http::p2::bindings::http::types::{
    DnsErrorPayload, ErrorCode, TlsAlertReceivedPayload,
};
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, Error};

/// Fields that concern one connection, which guests neither see nor set (as upstream has it).
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    DEFAULT_FORBIDDEN_HEADERS.contains(name)
}

/// Copies borrowed fields into a map; hop-by-hop ones are left out.
///
/// # Safety
/// `fields` must point to `count` fields whose views are valid.
pub unsafe fn map_of(fields: *const Field, count: usize) -> Result<HeaderMap, Fault> {
    let mut map = HeaderMap::new();
    if count == 0 || fields.is_null() {
        return Ok(map);
    }
    for field in unsafe { std::slice::from_raw_parts(fields, count) } {
        let (name, value) = unsafe { (field.name.bytes(), field.value.bytes()) };
        let name = HeaderName::from_bytes(name)
            .map_err(|_| Fault::invalid("a field's name is not a token"))?;
        let value = HeaderValue::from_bytes(value)
            .map_err(|_| Fault::invalid("a field's value has control bytes"))?;
        if !is_hop_by_hop(&name) {
            map.try_append(name, value)
                .map_err(|_| Fault::invalid("too many fields"))?;
        }
    }
    Ok(map)
}

/// Fills in at most `cap` views and returns how many fields there are.
///
/// # Safety
/// `fields` must point to `cap` fields that may be written.
pub unsafe fn views_of(map: &HeaderMap, fields: *mut Field, cap: usize) -> usize {
    let cap = if fields.is_null() { 0 } else { cap };
    for (i, (name, value)) in map.iter().take(cap).enumerate() {
        let field = Field {
            name: Str::of(name.as_str().as_bytes()),
            value: Str::of(value.as_bytes()),
        };
        unsafe { fields.add(i).write(field) };
    }
    map.len()
}

/// The content-length of a guest's fields; Err when it is not one number.
pub fn content_length(map: &HeaderMap) -> Result<Option<u64>, ()> {
    let mut values = map.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.as_bytes();
    if values.next().is_some() || text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(());
    }
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse().ok())
        .map(Some)
        .ok_or(())
}

pub fn content_length_raw(map: &HeaderMap) -> u64 {
    content_length(map).ok().flatten().unwrap_or(LENGTH_UNKNOWN)
}

pub fn error_code(error: HttpError) -> ErrorCode {
    use HttpError as H;
    match error {
        H::DnsTimeout => ErrorCode::DnsTimeout,
        H::DnsError => ErrorCode::DnsError(DnsErrorPayload {
            rcode: None,
            info_code: None,
        }),
        H::DestinationNotFound => ErrorCode::DestinationNotFound,
        H::DestinationUnavailable => ErrorCode::DestinationUnavailable,
        H::DestinationIpProhibited => ErrorCode::DestinationIpProhibited,
        H::DestinationIpUnroutable => ErrorCode::DestinationIpUnroutable,
        H::ConnectionRefused => ErrorCode::ConnectionRefused,
        H::ConnectionTerminated => ErrorCode::ConnectionTerminated,
        H::ConnectionTimeout => ErrorCode::ConnectionTimeout,
        H::ConnectionReadTimeout => ErrorCode::ConnectionReadTimeout,
        H::ConnectionWriteTimeout => ErrorCode::ConnectionWriteTimeout,
        H::ConnectionLimitReached => ErrorCode::ConnectionLimitReached,
        H::TlsProtocolError => ErrorCode::TlsProtocolError,
        H::TlsCertificateError => ErrorCode::TlsCertificateError,
        H::TlsAlertReceived => ErrorCode::TlsAlertReceived(TlsAlertReceivedPayload {
            alert_id: None,
            alert_message: None,
        }),
        H::RequestDenied => ErrorCode::HttpRequestDenied,
        H::RequestUriInvalid => ErrorCode::HttpRequestUriInvalid,
        H::RequestBodySize => ErrorCode::HttpRequestBodySize(None),
        H::ResponseIncomplete => ErrorCode::HttpResponseIncomplete,
        H::ResponseHeaderSectionSize => ErrorCode::HttpResponseHeaderSectionSize(None),
        H::ResponseTimeout => ErrorCode::HttpResponseTimeout,
        H::ProtocolError => ErrorCode::HttpProtocolError,
        H::InternalError => ErrorCode::InternalError(None),
    }
}

/// The same for the bodies that upstream's incoming-body reads.
pub fn http_error(error: HttpError) -> Error {
    use HttpError as H;
    match error {
        H::DnsTimeout => Error::DnsTimeout,
        H::DnsError => Error::DnsError {
            rcode: None,
            info_code: None,
        },
        H::DestinationNotFound => Error::DestinationNotFound,
        H::DestinationUnavailable => Error::DestinationUnavailable,
        H::DestinationIpProhibited => Error::DestinationIpProhibited,
        H::DestinationIpUnroutable => Error::DestinationIpUnroutable,
        H::ConnectionRefused => Error::ConnectionRefused,
        H::ConnectionTerminated => Error::ConnectionTerminated,
        H::ConnectionTimeout => Error::ConnectionTimeout,
        H::ConnectionReadTimeout => Error::ConnectionReadTimeout,
        H::ConnectionWriteTimeout => Error::ConnectionWriteTimeout,
        H::ConnectionLimitReached => Error::ConnectionLimitReached,
        H::TlsProtocolError => Error::TlsProtocolError,
        H::TlsCertificateError => Error::TlsCertificateError,
        H::TlsAlertReceived => Error::TlsAlertReceived {
            alert_id: None,
            alert_message: None,
        },
        H::RequestDenied => Error::HttpRequestDenied,
        H::RequestUriInvalid => Error::HttpRequestUriInvalid,
        H::RequestBodySize => Error::HttpRequestBodySize(None),
        H::ResponseIncomplete => Error::HttpResponseIncomplete,
        H::ResponseHeaderSectionSize => Error::HttpResponseHeaderSectionSize(None),
        H::ResponseTimeout => Error::HttpResponseTimeout,
        H::ProtocolError => Error::HttpProtocolError,
        H::InternalError => Error::InternalError(None),
    }
}
