//! Lets clients of etcd 3.4 in that are given an endpoint with a scheme: they send the whole URL as `:authority`
//! (`http://host:port`), which is no authority, and the HTTP/2 library resets such a request before anybody sees it.
//!
//! What a client sends is looked through on its way to that library: in the first field of each header block that names
//! the authority, `://` becomes `B33`. The characters were chosen so that neither the length of the value nor that of
//! its Huffman code changes, in each of which one bit differs; so no frame has to be made anew, and the tables of header
//! compression on both sides stay in step. Nobody reads the authority afterwards.
//!
//! Invariants:
//! - Nothing else changes, nothing is lost, and the order stays.
//! - A connection whose first request is in order is not looked at again.
//! - What is held back is less than a frame of headers.
//!
//! ```text
//! "http://" in RFC 7541's code   100111 01001 01001 101011 1011100 011000 011000
//! "httpB33"                      100111 01001 01001 101011 1011101 011001 011001
//! ```

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What every HTTP/2 client sends first.
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
/// Larger frames are against the limits that this side announces, and not looked at.
const FRAME_BYTES_MAX: usize = 16 << 10;
const READ_BYTES: usize = 8 << 10;

const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
/// Index of `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;

const PLAIN: &[u8] = b"http://";
/// The same seven characters in Huffman code: 41 bits.
const CODED: [u8; 6] = [0x9d, 0x29, 0xae, 0xe3, 0x0c, 0x00];
/// Which bits of the last byte belong to them.
const CODED_LAST_BITS: u8 = 0x80;
/// The bits that make `://` to `B33`, plain and in code.
const PLAIN_FLIP: [u8; 7] = [0, 0, 0, 0, b':' ^ b'B', b'/' ^ b'3', b'/' ^ b'3'];
const CODED_FLIP: [u8; 6] = [0, 0, 0, 0x08, 0x20, 0x80];

/// A socket whose reader gets authorities without a scheme.
pub struct LenientSocket<S> {
    socket: S,
    /// None once the first request was in order.
    look: Option<Look>,
    /// What was looked through and not read yet.
    ready: BytesMut,
}

/// Where in the stream of frames the reader is.
struct Look {
    /// Begins with a frame, of which not enough has come to look at it.
    held: BytesMut,
    /// So much of what comes belongs to something that is not looked at.
    passing: usize,
    /// A request's authority had a scheme.
    found: bool,
}

impl<S> LenientSocket<S> {
    /// Looks at what comes from `socket`, which must be an HTTP/2 client's.
    pub fn new(socket: S) -> Self {
        let look = Look { held: BytesMut::new(), passing: PREFACE_BYTES, found: false };
        Self { socket, look: Some(look), ready: BytesMut::new() }
    }
}

impl Look {
    /// Moves what has been looked through to `ready`. False once there is nothing more to look for.
    fn advance(&mut self, ready: &mut BytesMut) -> bool {
        loop {
            let passing = self.passing.min(self.held.len());
            ready.extend_from_slice(&self.held.split_to(passing));
            self.passing -= passing;
            let [a, b, c, kind, flags, ..] = self.held[..] else { return true };
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if kind != HEADERS || length > FRAME_BYTES_MAX {
                self.passing = FRAME_HEAD_BYTES + length;
                continue;
            }
            if self.held.len() < FRAME_HEAD_BYTES + length {
                return true;
            }
            let frame = &mut self.held[FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + length];
            let mended = fields(frame, flags).is_some_and(mend);
            self.found |= mended;
            self.passing = FRAME_HEAD_BYTES + length;
            if !self.found {
                ready.extend_from_slice(&self.held.split());
                return false;
            }
        }
    }
}

/// The header fields in a frame: without padding and priority.
fn fields(frame: &mut [u8], flags: u8) -> Option<&mut [u8]> {
    let padding = if flags & PADDED == 0 { None } else { Some(usize::from(*frame.first()?)) };
    let begin = usize::from(padding.is_some()) + if flags & PRIORITY == 0 { 0 } else { PRIORITY_BYTES };
    let end = frame.len().checked_sub(padding.unwrap_or(0))?;
    frame.get_mut(begin..end)
}

/// Takes the scheme out of the authority. False when there was none, or the fields cannot be read: the library behind
/// says what is wrong with them.
fn mend(fields: &mut [u8]) -> bool {
    let Some((begin, end, coded)) = authority(fields) else { return false };
    let Some(value) = fields.get_mut(begin..end) else { return false };
    if coded {
        let Some((last, whole)) = value.get(..CODED.len()).and_then(<[u8]>::split_last) else { return false };
        if whole != &CODED[..CODED.len() - 1] || last & CODED_LAST_BITS != CODED[CODED.len() - 1] {
            return false;
        }
        value.iter_mut().zip(CODED_FLIP).for_each(|(byte, flip)| *byte ^= flip);
    } else {
        if !value.starts_with(PLAIN) {
            return false;
        }
        value.iter_mut().zip(PLAIN_FLIP).for_each(|(byte, flip)| *byte ^= flip);
    }
    true
}

/// Where the literal value of the first authority is, and whether it is in Huffman code.
fn authority(fields: &[u8]) -> Option<(usize, usize, bool)> {
    let mut at = 0;
    while let Some(first) = fields.get(at) {
        // RFC 7541, section 6: what the highest bits say, and how many of the rest begin a number.
        let (prefix, is_literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let name = integer(fields, &mut at, prefix)?;
        if !is_literal {
            continue;
        }
        if name == 0 {
            string(fields, &mut at)?;
        }
        let value = string(fields, &mut at)?;
        if name == AUTHORITY {
            return Some(value);
        }
    }
    None
}

/// A string literal: begin, end, and whether it is in Huffman code.
fn string(fields: &[u8], at: &mut usize) -> Option<(usize, usize, bool)> {
    let coded = fields.get(*at)? & 0x80 != 0;
    let length = integer(fields, at, 7)?;
    let begin = *at;
    *at = begin.checked_add(length).filter(|end| *end <= fields.len())?;
    Some((begin, *at, coded))
}

/// RFC 7541, section 5.1. None when it does not end, or is longer than any frame could hold.
fn integer(fields: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let most = (1usize << prefix) - 1;
    let mut value = usize::from(*fields.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = usize::from(*fields.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

impl<S: AsyncRead + Unpin> AsyncRead for LenientSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.ready.is_empty() {
            let Some(look) = &mut this.look else { return Pin::new(&mut this.socket).poll_read(cx, buffer) };
            let mut bytes = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut read))?;
            look.held.extend_from_slice(read.filled());
            let ended = read.filled().is_empty();
            if !look.advance(&mut this.ready) || ended {
                // At the end what is held back is of a frame that will never be whole.
                this.ready.extend_from_slice(&look.held);
                this.look = None;
            }
        }
        let taken = this.ready.len().min(buffer.remaining());
        buffer.put_slice(&this.ready[..taken]);
        this.ready.advance(taken);
        if this.ready.is_empty() && this.look.is_none() {
            this.ready = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LenientSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// `:method POST`, a literal with a name of its own, then `:authority` as given, then `:path /`.
    fn block(authority: &[u8], coded: bool) -> Vec<u8> {
        let mut block = vec![0x83, 0x40, 1, b'x', 1, b'y', 0x41];
        block.push(u8::try_from(authority.len()).unwrap() | if coded { 0x80 } else { 0 });
        block.extend_from_slice(authority);
        block.push(0x84);
        block
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What the reader gets of `bytes`, which come in pieces of these sizes, the last one again and again.
    fn read(bytes: &[u8], pieces: &[usize]) -> Vec<u8> {
        let mut test = socket(bytes, pieces);
        let mut out = Vec::new();
        futures::executor::block_on(test.read_to_end(&mut out)).unwrap();
        out
    }

    fn socket(bytes: &[u8], pieces: &[usize]) -> LenientSocket<Pieces> {
        LenientSocket::new(Pieces { bytes: bytes.to_vec(), sizes: pieces.to_vec(), next: 0 })
    }

    struct Pieces {
        bytes: Vec<u8>,
        sizes: Vec<usize>,
        next: usize,
    }

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let piece = self.sizes[self.next.min(self.sizes.len() - 1)];
            self.next += 1;
            let taken = piece.min(self.bytes.len()).min(buffer.remaining());
            buffer.put_slice(&self.bytes[..taken]);
            self.bytes.drain(..taken);
            Poll::Ready(Ok(()))
        }
    }

    /// Preface, settings, two requests with data between them.
    fn connection(authority: &[u8], coded: bool, flags: u8) -> Vec<u8> {
        let mut head = block(authority, coded);
        if flags & PRIORITY != 0 {
            head.splice(0..0, [0, 0, 0, 0, 15]);
        }
        if flags & PADDED != 0 {
            head.insert(0, 3);
            head.extend_from_slice(&[0; 3]);
        }
        let parts = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, &[0, 3, 0, 0, 0, 100]),
            frame(HEADERS, 4 | flags, &head),
            frame(0, 1, b"http:// is left alone in data, and so is A\x95\x9d\x29\xae\xe3\x0c\x00"),
            frame(HEADERS, 4 | flags, &head),
            frame(8, 0, &[0, 0, 1, 0]),
        ];
        parts.concat()
    }

    /// `http://127.0.0.1:2379` as Go's encoder writes it (RFC 7541, appendix B).
    const GO: &[u8] = b"\x9d\x29\xae\xe3\x0c\x04\x4e\xae\x05\xc0\xb8\x6e\x09\x97\x5f";

    #[test]
    fn one_bit_of_each_character_changes_and_nothing_else() {
        for flags in [0, PADDED, PRIORITY, PADDED | PRIORITY] {
            let plain = connection(b"http://10.0.0.1:2379", false, flags);
            assert_eq!(read(&plain, &[4096]), connection(b"httpB3310.0.0.1:2379", false, flags));
            let coded = connection(GO, true, flags);
            let mended = [&[0x9d, 0x29, 0xae, 0xeb, 0x2c, 0x84], &GO[6..]].concat();
            assert_eq!(read(&coded, &[1]), connection(&mended, true, flags));
        }
    }

    #[test]
    fn what_is_in_order_is_left_alone_and_not_looked_at_again() {
        // The last of them are a host called http, and nothing.
        for (authority, coded) in
            [(&b"10.0.0.1:2379"[..], false), (b"http:8080", false), (b"\x9d\x29\xae\xe3\xcf", true), (b"", false)]
        {
            let bytes = connection(authority, coded, 0);
            let mut read = socket(&bytes, &[7]);
            let mut out = Vec::new();
            futures::executor::block_on(read.read_to_end(&mut out)).unwrap();
            assert_eq!(out, bytes);
            assert!(read.look.is_none());
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_in_whatever_pieces_goes_through_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            pieces in prop::collection::vec(1usize..60, 1..20),
            begins_well in any::<bool>(),
        ) {
            let head = if begins_well { connection(b"http://x", false, 0) } else { Vec::new() };
            let mended = if begins_well { connection(b"httpB33x", false, 0) } else { Vec::new() };
            let sent = [head, bytes].concat();
            let out = read(&sent, &pieces);
            prop_assert_eq!(out.len(), sent.len());
            prop_assert!(out.starts_with(&mended));
        }
    }
}
