//! The head of an incoming request: one copy of C++'s buffer, and offsets into it.

use crate::error::Fault;
use crate::ffi::{FieldSlice, Head, Slice};
use bytes::Bytes;

pub struct HeadIn {
    bytes: Bytes,
    method: Slice,
    authority: Slice,
    path_query: Slice,
    fields: Box<[FieldSlice]>,
    pub https: bool,
}

/// RFC 9110 section 5.6.2
fn is_token(bytes: &[u8]) -> bool {
    let tchar = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !bytes.is_empty() && bytes.iter().all(tchar)
}

/// RFC 9110 section 5.5: anything but controls; a tab is none.
fn is_field_value(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|b| *b == b'\t' || (*b >= 0x20 && *b != 0x7f))
}

fn is_visible(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b > 0x20 && *b != 0x7f)
}

fn part(bytes: &[u8], slice: Slice) -> Result<&[u8], Fault> {
    let from = slice.offset as usize;
    bytes
        .get(from..from + slice.length as usize)
        .ok_or_else(|| Fault::invalid("a slice of the head lies outside its bytes"))
}

impl HeadIn {
    /// Checks and copies the head.
    ///
    /// # Safety
    /// The views and pointers of `head` must be valid.
    pub unsafe fn new(head: &Head) -> Result<HeadIn, Fault> {
        let bytes = unsafe { head.bytes.bytes() };
        let fields = if head.field_count == 0 {
            &[][..]
        } else if head.fields.is_null() {
            return Err(Fault::invalid(
                "the head has fields, but no pointer to them",
            ));
        } else {
            unsafe { std::slice::from_raw_parts(head.fields, head.field_count) }
        };
        if !is_token(part(bytes, head.method)?) {
            return Err(Fault::invalid("the method is not a token"));
        }
        let authority = part(bytes, head.authority)?;
        if authority.is_empty() || !is_visible(authority) || !authority.is_ascii() {
            return Err(Fault::invalid(
                "the authority is empty or has bytes that no authority has",
            ));
        }
        let path = part(bytes, head.path_query)?;
        if !is_visible(path) || std::str::from_utf8(path).is_err() {
            return Err(Fault::invalid(
                "the path has spaces, controls, or is not UTF-8",
            ));
        }
        for field in fields {
            if !is_token(part(bytes, field.name)?) {
                return Err(Fault::invalid("a field's name is not a token"));
            }
            if !is_field_value(part(bytes, field.value)?) {
                return Err(Fault::invalid("a field's value has control bytes"));
            }
        }
        Ok(HeadIn {
            bytes: Bytes::copy_from_slice(bytes),
            method: head.method,
            authority: head.authority,
            path_query: head.path_query,
            fields: fields.into(),
            https: head.https != 0,
        })
    }

    fn get(&self, slice: Slice) -> &[u8] {
        &self.bytes[slice.offset as usize..][..slice.length as usize]
    }

    pub fn method(&self) -> &[u8] {
        self.get(self.method)
    }

    pub fn authority(&self) -> &[u8] {
        self.get(self.authority)
    }

    pub fn path_query(&self) -> &[u8] {
        self.get(self.path_query)
    }

    pub fn field_count(&self) -> usize {
        self.fields.len()
    }

    /// Names as the client wrote them; values share the head's buffer.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], Bytes)> {
        self.fields.iter().map(|f| {
            let from = f.value.offset as usize;
            (
                self.get(f.name),
                self.bytes.slice(from..from + f.value.length as usize),
            )
        })
    }
}
