//! stdout and stderr of a guest: whole lines, bounded, handed to C++ after the slice (never from the guest's stack).

use crate::store::Shared;
use crate::waker::lock;
use bytes::Bytes;
use std::sync::Arc;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};
use wasmtime_wasi_io::async_trait;

/// Longer lines are cut here; the rest of the line is counted as dropped.
pub const LINE_MAX: usize = 8 << 10;

#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
    /// The line was cut: what follows up to its newline is dropped.
    cut: bool,
}

/// The output of one request.
#[derive(Default)]
pub struct Output {
    partial: [Partial; 2],
    lines: Vec<(i32, Vec<u8>)>,
    kept: usize,
    cut_lines: u64,
    dropped: u64,
    max: usize,
}

impl Output {
    pub fn reset(&mut self, max: usize) {
        *self = Output {
            max,
            ..Output::default()
        };
    }

    /// Anything to hand over now?
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn write(&mut self, stream: i32, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.kept >= self.max && self.partial[stream as usize - 1].bytes.is_empty() {
                // Not line by line: 64 MiB of newlines in one call would hold the loop for most of a second.
                return self.drop_all(stream, bytes);
            }
            let newline = bytes.iter().position(|b| *b == b'\n');
            let part = &bytes[..newline.unwrap_or(bytes.len())];
            self.add(stream, part);
            if newline.is_some() {
                self.end_line(stream);
            }
            bytes = &bytes[(part.len() + newline.is_some() as usize).min(bytes.len())..];
        }
    }

    fn add(&mut self, stream: i32, part: &[u8]) {
        let room = self.max.saturating_sub(self.kept);
        let line = &mut self.partial[stream as usize - 1];
        let take = part.len().min(room).min(LINE_MAX - line.bytes.len());
        line.bytes.extend_from_slice(&part[..take]);
        self.kept += take;
        if take < part.len() {
            self.dropped += (part.len() - take) as u64;
            if !std::mem::replace(&mut line.cut, true) {
                self.cut_lines += 1;
            }
        }
    }

    fn drop_all(&mut self, stream: i32, bytes: &[u8]) {
        self.dropped += bytes.len() as u64;
        let open = bytes.last() != Some(&b'\n');
        if !std::mem::replace(&mut self.partial[stream as usize - 1].cut, open) {
            self.cut_lines += 1;
        }
    }

    fn end_line(&mut self, stream: i32) {
        let line = &mut self.partial[stream as usize - 1];
        let cut = std::mem::take(&mut line.cut);
        if self.kept >= self.max && line.bytes.is_empty() {
            // Empty lines are free of bytes, but not of charge.
            self.dropped += !cut as u64;
            return;
        }
        self.kept += 1;
        self.lines.push((stream, std::mem::take(&mut line.bytes)));
    }

    pub fn take_lines(&mut self) -> Vec<(i32, Vec<u8>)> {
        std::mem::take(&mut self.lines)
    }

    /// At the guest's end: unfinished lines, and a last one that says what was left out.
    pub fn finish(&mut self) {
        for stream in [1, 2] {
            if !self.partial[stream as usize - 1].bytes.is_empty() {
                self.end_line(stream);
            }
        }
        if self.dropped > 0 {
            let text = format!(
                "{} bytes of output were left out ({} lines cut)",
                self.dropped, self.cut_lines
            );
            self.lines.push((0, text.into_bytes()));
            self.dropped = 0;
        }
    }
}

/// The output-stream behind get-stdout and get-stderr. Never makes the guest wait.
pub struct LogStream {
    pub shared: Arc<Shared>,
    pub stream: i32,
}

#[async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        lock(&self.shared.output).write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(64 << 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(output: &mut Output) -> Vec<(i32, String)> {
        output
            .take_lines()
            .into_iter()
            .map(|(s, l)| (s, String::from_utf8_lossy(&l).into_owned()))
            .collect()
    }

    #[test]
    fn splits_and_joins_lines_per_stream() {
        let mut o = Output::default();
        o.reset(1000);
        o.write(1, b"one\ntw");
        o.write(2, b"err\n");
        o.write(1, b"o\n\nthree");
        assert_eq!(
            lines(&mut o),
            [
                (1, "one".into()),
                (2, "err".into()),
                (1, "two".into()),
                (1, "".into())
            ]
        );
        o.finish();
        assert_eq!(lines(&mut o), [(1, "three".into())]);
    }

    #[test]
    fn cuts_long_lines_and_says_so_once() {
        let mut o = Output::default();
        o.reset(1 << 20);
        o.write(1, &[b'x'; LINE_MAX + 10]);
        o.write(1, b"more\nnext\n");
        o.finish();
        let got = lines(&mut o);
        assert_eq!(got[0].1.len(), LINE_MAX);
        assert_eq!(got[1], (1, "next".into()));
        assert_eq!(
            got[2],
            (0, "14 bytes of output were left out (1 lines cut)".into())
        );
        assert_eq!(got.len(), 3);
    }

    #[test]
    fn what_is_over_the_limit_is_counted_as_a_whole() {
        let mut o = Output::default();
        o.reset(10);
        o.write(1, b"12345678");
        o.write(1, b"9\n");
        o.write(1, &[b'\n'; 1000]);
        o.write(2, b"half of a");
        o.write(2, b" line\n");
        o.finish();
        assert_eq!(
            lines(&mut o),
            [
                (1, "123456789".into()),
                (0, "1015 bytes of output were left out (2 lines cut)".into())
            ]
        );
    }

    #[test]
    fn bounds_a_flood_of_bytes_and_of_empty_lines() {
        let mut o = Output::default();
        o.reset(100);
        for _ in 0..1000 {
            o.write(1, b"0123456789\n");
            o.write(2, b"\n\n");
        }
        o.finish();
        let got = lines(&mut o);
        assert!(got.len() < 50, "{}", got.len());
        assert_eq!(got.iter().filter(|l| l.0 == 0).count(), 1);
    }
}
