//! stdout and stderr of a guest: whole lines, bounded, handed to C++ after the slice (never from the guest's stack).

use crate::store::Shared;
use crate::waker::lock;
use bytes::Bytes;
use std::sync::Arc;
use wasmtime::component::{ComponentType, Lift};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};
use wasmtime_wasi_io::async_trait;

/// Longer lines are cut here; the rest of the line is counted as dropped.
pub const LINE_MAX: usize = 8 << 10;

/// Longer contexts of wasi:logging are cut here.
const CONTEXT_MAX: usize = 256;

/// Streams from here on are wasi:logging, in the order of its levels (engine.h).
const LOG_STREAM: i32 = 3;

/// wasi:logging/logging.level
#[derive(ComponentType, Lift, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
pub enum LogLevel {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

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

    /// A call of wasi:logging: one line, however many are in its message.
    pub fn log(&mut self, level: LogLevel, context: &str, message: &str) {
        let mut line: Vec<u8> = context.bytes().take(CONTEXT_MAX).collect();
        line.iter_mut()
            .filter(|b| **b == b'\n')
            .for_each(|b| *b = b' ');
        line.push(b'\n');
        let room = self.max.saturating_sub(self.kept).min(LINE_MAX);
        let Some(room) = room.checked_sub(line.len()) else {
            self.dropped += (context.len() + message.len()) as u64;
            self.cut_lines += 1;
            return;
        };
        let take = message.len().min(room);
        self.dropped += (message.len() - take) as u64;
        self.cut_lines += (take < message.len()) as u64;
        line.extend_from_slice(&message.as_bytes()[..take]);
        self.kept += line.len();
        self.lines.push((LOG_STREAM + level as i32, line));
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
    fn a_call_of_logging_is_a_line_of_its_level() {
        let mut o = Output::default();
        o.reset(60);
        o.write(1, b"one\n");
        o.log(LogLevel::Trace, "a\nb", "first\nsecond");
        o.log(LogLevel::Critical, "", "");
        o.log(LogLevel::Info, "c", &"x".repeat(100));
        o.log(LogLevel::Info, "c", "y");
        o.finish();
        let got = lines(&mut o);
        assert_eq!(
            got[..3],
            [
                (1, "one".into()),
                (3, "a b\nfirst\nsecond".into()),
                (8, "\n".into())
            ]
        );
        assert_eq!(got[3], (5, format!("c\n{}", "x".repeat(37))));
        assert_eq!(
            got[4],
            (0, "65 bytes of output were left out (2 lines cut)".into())
        );
        assert_eq!(got.len(), 5);
    }

    #[test]
    fn a_log_line_ends_as_any_other() {
        let mut o = Output::default();
        o.reset(1 << 20);
        o.log(LogLevel::Warn, &"c".repeat(300), &"x".repeat(LINE_MAX));
        let got = lines(&mut o);
        assert_eq!((got[0].0, got[0].1.len()), (6, LINE_MAX));
        assert_eq!(got[0].1.find('\n'), Some(CONTEXT_MAX));
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
