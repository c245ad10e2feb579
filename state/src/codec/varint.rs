//! The primitives of every stored byte: integers of variable length, byte strings with a length before them,
//! and a reader that refuses instead of panicking.
//!
//! Invariants:
//! - An unsigned integer is 7 bits a byte, lowest first, the high bit says that more follow, at most 10 bytes;
//!   a signed one is zigzagged before. `300` is `ac 02`; `-1` is `01`.
//! - Any input is either read whole or refused with a [`DecodeError`].

use bytes::Bytes;
use quorate_proto::{Key, LeaseId, Path, Revision};

/// Why some bytes cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end in the middle of something.
    #[error("the bytes end too early")]
    Truncated,
    /// They go on after the end.
    #[error("{bytes} bytes are left over")]
    LeftOver {
        /// How many.
        bytes: usize,
    },
    /// A byte that names a kind is unknown.
    #[error("{what} has the unknown kind {found}")]
    UnknownKind {
        /// Of what.
        what: &'static str,
        /// The byte.
        found: u8,
    },
    /// Written in a format that this program does not know.
    #[error("{what} has the format {found}, this program knows {known}")]
    UnknownFormat {
        /// Of what.
        what: &'static str,
        /// The byte.
        found: u8,
        /// Here.
        known: u8,
    },
    /// A value that cannot be.
    #[error("{0} is not valid")]
    Invalid(&'static str),
}

/// Appends an unsigned integer.
pub(crate) fn put_u64(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Appends a signed integer.
pub(crate) fn put_i64(out: &mut Vec<u8>, number: i64) {
    put_u64(out, (number << 1 ^ number >> 63).cast_unsigned());
}

/// Appends a length.
pub(crate) fn put_len(out: &mut Vec<u8>, length: usize) {
    put_u64(out, u64::try_from(length).unwrap_or(u64::MAX));
}

/// Appends a byte string.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends a truth.
pub(crate) fn put_bool(out: &mut Vec<u8>, truth: bool) {
    out.push(u8::from(truth));
}

/// Appends a revision. Revisions are never negative; one that is reads back as invalid.
pub(crate) fn put_revision(out: &mut Vec<u8>, revision: Revision) {
    put_u64(out, revision.0.cast_unsigned());
}

/// Appends a lease, 0 for none.
pub(crate) fn put_lease(out: &mut Vec<u8>, lease: Option<LeaseId>) {
    put_u64(out, LeaseId::wire(lease).cast_unsigned());
}

/// Appends an optional thing: a byte 0 or 1, then the thing.
pub(crate) fn put_option<T>(out: &mut Vec<u8>, option: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    put_bool(out, option.is_some());
    if let Some(thing) = option {
        put(out, thing);
    }
}

/// Reads what the functions above wrote.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// What `rest` is a part of, if byte strings are to be shared rather than copied.
    whole: Option<&'a Bytes>,
}

impl<'a> Reader<'a> {
    /// Byte strings will be copied.
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { rest: input, whole: None }
    }

    /// Byte strings will be slices of `whole`.
    pub(crate) fn sharing(whole: &'a Bytes) -> Self {
        Self { rest: whole, whole: Some(whole) }
    }

    /// A reader of the next byte string.
    pub(crate) fn inside(&mut self) -> Result<Self, DecodeError> {
        Ok(Self { rest: self.slice()?, whole: self.whole })
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    /// The format byte of `what`; anything but `known` is refused.
    pub(crate) fn format(&mut self, what: &'static str, known: u8) -> Result<(), DecodeError> {
        match self.byte()? {
            found if found == known => Ok(()),
            found => Err(DecodeError::UnknownFormat { what, found, known }),
        }
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Invalid("an integer over 64 bits"));
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Invalid("an integer of more than 10 bytes"))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        let zigzag = self.u64()?;
        Ok((zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed()))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.u64()?).map_err(|_| DecodeError::Invalid("an integer over 32 bits"))
    }

    /// 8 bytes, big-endian.
    pub(crate) fn fixed(&mut self) -> Result<u64, DecodeError> {
        let (number, rest) = self.rest.split_first_chunk::<8>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*number))
    }

    /// A number of things of which each takes a byte at least.
    pub(crate) fn count(&mut self) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.u64()?).map_err(|_| DecodeError::Truncated)?;
        if count > self.rest.len() { Err(DecodeError::Truncated) } else { Ok(count) }
    }

    pub(crate) fn slice(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.count()?;
        let (slice, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(slice)
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let slice = self.slice()?;
        Ok(self.shared(slice))
    }

    fn shared(&self, slice: &'a [u8]) -> Bytes {
        match self.whole {
            Some(whole) => whole.slice_ref(slice),
            None => Bytes::copy_from_slice(slice),
        }
    }

    pub(crate) fn string(&mut self) -> Result<String, DecodeError> {
        let text = std::str::from_utf8(self.slice()?).map_err(|_| DecodeError::Invalid("a text"))?;
        Ok(text.to_owned())
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid("a truth")),
        }
    }

    pub(crate) fn revision(&mut self) -> Result<Revision, DecodeError> {
        i64::try_from(self.u64()?).map(Revision).map_err(|_| DecodeError::Invalid("a revision"))
    }

    pub(crate) fn lease(&mut self) -> Result<Option<LeaseId>, DecodeError> {
        Ok(LeaseId::new(self.u64()?.cast_signed()))
    }

    /// A lease that is not "none".
    pub(crate) fn some_lease(&mut self) -> Result<LeaseId, DecodeError> {
        self.lease()?.ok_or(DecodeError::Invalid("a lease of id 0"))
    }

    pub(crate) fn key(&mut self) -> Result<Key, DecodeError> {
        Key::new(self.bytes()?).map_err(|_| DecodeError::Invalid("a key"))
    }

    pub(crate) fn path(&mut self) -> Result<Path, DecodeError> {
        Path::new(self.bytes()?).map_err(|_| DecodeError::Invalid("a path"))
    }

    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.boolean()? { read(self).map(Some) } else { Ok(None) }
    }

    /// `count()` things, one after another.
    pub(crate) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.count()?;
        // A count that lies must not reserve memory that its bytes do not justify.
        let mut things = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            things.push(read(self)?);
        }
        Ok(things)
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> Bytes {
        let rest = self.rest_slice();
        self.shared(rest)
    }

    /// The same, neither copied nor shared.
    pub(crate) fn rest_slice(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::LeftOver { bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_any_size_come_back() {
        for number in [0, 1, -1, 63, 64, 300, -300, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            put_i64(&mut out, number);
            put_u64(&mut out, number.cast_unsigned());
            let mut reader = Reader::new(&out);
            assert_eq!(reader.i64(), Ok(number));
            assert_eq!(reader.u64(), Ok(number.cast_unsigned()));
            reader.end().unwrap();
        }
    }

    #[test]
    fn golden_integers() {
        let mut out = Vec::new();
        put_u64(&mut out, 300);
        put_i64(&mut out, -1);
        assert_eq!(out, [0xac, 0x02, 0x01]);
    }

    #[test]
    fn an_integer_over_64_bits_is_refused() {
        assert!(Reader::new(&[0xff; 9]).u64().is_err());
        let mut eleven = vec![0x80; 10];
        eleven.push(0);
        assert!(Reader::new(&eleven).u64().is_err());
        let mut over = vec![0xff; 9];
        over.push(2);
        assert!(Reader::new(&over).u64().is_err());
    }
}
