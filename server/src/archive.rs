//! A snapshot as one stream of bytes: what `Admin.Snapshot` sends, `quorate snapshot save` stores and `restore` reads.
//!
//! ```text
//! header   "quorate archive\n"  version u8 = 1  length u32  note (text)  xxh3-64 of all before, u64
//! file     01  length u16  name  length u64  content  xxh3-64 of the content, u64
//! trailer  00  number of files u32  xxh3-64 of all before (of the whole stream), u64
//! ```
//! Integers are big-endian. Nothing follows the trailer.
//!
//! Invariants:
//! - A stream that ends early, or has a bit flipped anywhere, is refused; what was unpacked of it is removed.
//! - Files land in the directory asked for and nowhere else: a name is a plain file name.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const MAGIC: &[u8] = b"quorate archive\n";
const VERSION: u8 = 1;
const FILE: u8 = 1;
const TRAILER: u8 = 0;
const CHUNK_BYTES: usize = 256 * 1024;
const NOTE_BYTES_MAX: usize = 64 * 1024;

/// Why an archive cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Something else.
    #[error("this is no archive of Quorate; give the file that `quorate snapshot save` wrote")]
    NotAnArchive,
    /// Written by a newer program.
    #[error("the archive has version {found}, this program knows {VERSION}; use a newer program")]
    Newer {
        /// Its version.
        found: u8,
    },
    /// Cut short.
    #[error("the archive ends too early, in {in_what}; it was not saved completely: save it again")]
    Truncated {
        /// Where.
        in_what: String,
    },
    /// Wrong bytes.
    #[error("the archive is damaged: {what}; use another copy, or save it again")]
    Damaged {
        /// What is wrong.
        what: String,
    },
    /// A file changed while it was packed.
    #[error("{name} changed while it was packed; it must not: pack a checkpoint")]
    Changed {
        /// Which file.
        name: String,
    },
    /// The destination has something in it.
    #[error("{} is not empty; unpack into an empty or new directory", path.display())]
    NotEmpty {
        /// Which directory.
        path: PathBuf,
    },
    /// The disk or the stream.
    #[error("{what}: {error}")]
    Io {
        /// Which file.
        what: String,
        /// What went wrong.
        error: io::Error,
    },
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// What the writer noted.
    pub note: String,
    /// Names and lengths of the files, in the order of the archive.
    pub files: Vec<(String, u64)>,
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ArchiveError {
    let what = what.into();
    |error| ArchiveError::Io { what, error }
}

/// Packs the plain files of a directory, chunk by chunk. Blocking: call it where that is allowed.
pub struct Packer {
    directory: PathBuf,
    /// Left to pack, the next one last.
    names: Vec<String>,
    files: u32,
    header: Option<Vec<u8>>,
    current: Option<PackedFile>,
    whole: Xxh3,
    done: bool,
}

struct PackedFile {
    name: String,
    file: File,
    left: u64,
    hash: Xxh3,
}

impl Packer {
    /// Prepares; `note` is text that a reader sees first.
    pub fn new(directory: &Path, note: &str) -> Result<Self, ArchiveError> {
        let shown = directory.display().to_string();
        let mut names = Vec::new();
        for item in fs::read_dir(directory).map_err(io_error(&shown))? {
            let item = item.map_err(io_error(&shown))?;
            let name = item.file_name().into_string().ok().filter(|name| is_plain(name));
            let is_file = item.file_type().map_err(io_error(&shown))?.is_file();
            match name {
                Some(name) if is_file => names.push(name),
                _ => {
                    let what = format!("{} is no plain file", item.path().display());
                    return Err(ArchiveError::Damaged { what });
                }
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        let note = &note.as_bytes()[..note.len().min(NOTE_BYTES_MAX)];
        let mut header = MAGIC.to_vec();
        header.push(VERSION);
        header.extend_from_slice(&length_u32(note.len()));
        header.extend_from_slice(note);
        let check = xxh3_64(&header);
        header.extend_from_slice(&check.to_be_bytes());
        let directory = directory.to_owned();
        Ok(Self { directory, names, files: 0, header: Some(header), current: None, whole: Xxh3::new(), done: false })
    }

    /// Bytes of the whole archive, before anything of it was packed.
    pub fn total_bytes(&self) -> Result<u64, ArchiveError> {
        let mut bytes = self.header.as_ref().map_or(0, Vec::len) + 1 + 4 + 8;
        let mut content = 0;
        for name in &self.names {
            bytes += 1 + 2 + name.len() + 8 + 8;
            content += fs::metadata(self.directory.join(name)).map_err(io_error(name))?.len();
        }
        Ok(content + bytes as u64)
    }

    /// The next bytes of the archive; `None` after the last.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, ArchiveError> {
        if self.done {
            return Ok(None);
        }
        let mut chunk = self.header.take().unwrap_or_default();
        while chunk.len() < CHUNK_BYTES && !self.done {
            if let Some(current) = self.current.take() {
                self.current = current.pack(&mut chunk)?;
            } else if let Some(name) = self.names.pop() {
                self.current = Some(PackedFile::open(&self.directory, name, &mut chunk)?);
                self.files += 1;
            } else {
                chunk.push(TRAILER);
                chunk.extend_from_slice(&self.files.to_be_bytes());
                self.whole.update(&chunk);
                chunk.extend_from_slice(&self.whole.digest().to_be_bytes());
                self.done = true;
            }
        }
        if !self.done {
            self.whole.update(&chunk);
        }
        Ok(Some(chunk.into()))
    }

    /// Packs everything into `output`.
    pub fn write_to(mut self, output: &mut impl Write) -> Result<(), ArchiveError> {
        while let Some(chunk) = self.next_chunk()? {
            output.write_all(&chunk).map_err(io_error("the archive"))?;
        }
        Ok(())
    }
}

impl PackedFile {
    fn open(directory: &Path, name: String, chunk: &mut Vec<u8>) -> Result<Self, ArchiveError> {
        let file = File::open(directory.join(&name)).map_err(io_error(&name))?;
        let left = file.metadata().map_err(io_error(&name))?.len();
        chunk.push(FILE);
        chunk.extend_from_slice(&length_u32(name.len())[2..]);
        chunk.extend_from_slice(name.as_bytes());
        chunk.extend_from_slice(&left.to_be_bytes());
        Ok(Self { name, file, left, hash: Xxh3::new() })
    }

    fn pack(mut self, chunk: &mut Vec<u8>) -> Result<Option<Self>, ArchiveError> {
        let from = chunk.len();
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        chunk.resize(from + want, 0);
        self.file.read_exact(&mut chunk[from..]).map_err(|_| ArchiveError::Changed { name: self.name.clone() })?;
        self.hash.update(&chunk[from..]);
        self.left -= want as u64;
        if self.left > 0 {
            return Ok(Some(self));
        }
        chunk.extend_from_slice(&self.hash.digest().to_be_bytes());
        Ok(None)
    }
}

/// Checks an archive and writes its files, fsynced, into `directory`, which must be empty or missing.
pub fn unpack(input: impl Read, directory: &Path) -> Result<Contents, ArchiveError> {
    let shown = directory.display().to_string();
    fs::create_dir_all(directory).map_err(io_error(&shown))?;
    if fs::read_dir(directory).map_err(io_error(&shown))?.next().is_some() {
        return Err(ArchiveError::NotEmpty { path: directory.to_owned() });
    }
    let mut written = Vec::new();
    let unpacked = Unpacker::new(input).run(|name| {
        let path = directory.join(name);
        let file = File::create_new(&path)?;
        written.push(path);
        Ok(Some(file))
    });
    let synced = unpacked.and_then(|contents| {
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_error(&shown))?;
        Ok(contents)
    });
    if synced.is_err() {
        for path in written {
            // It was created above; when it cannot be removed either, the first error is the one to tell.
            let _ = fs::remove_file(path);
        }
    }
    synced
}

/// Checks an archive without keeping anything of it.
pub fn verify(input: impl Read) -> Result<Contents, ArchiveError> {
    Unpacker::new(input).run(|_| Ok(None))
}

struct Unpacker<R> {
    input: R,
    whole: Xxh3,
}

impl<R: Read> Unpacker<R> {
    fn new(input: R) -> Self {
        Self { input, whole: Xxh3::new() }
    }

    fn run(mut self, mut create: impl FnMut(&str) -> io::Result<Option<File>>) -> Result<Contents, ArchiveError> {
        let note = self.header()?;
        let (mut files, mut names) = (Vec::new(), HashSet::new());
        loop {
            match self.array::<1>("the kind of a part")? {
                [FILE] => {
                    let (name, bytes) = self.file(&mut create)?;
                    if !names.insert(name.clone()) {
                        return Err(ArchiveError::Damaged { what: format!("{name} stands there twice") });
                    }
                    files.push((name, bytes));
                }
                [TRAILER] => break,
                [other] => return Err(ArchiveError::Damaged { what: format!("a part has the unknown kind {other}") }),
            }
        }
        let count = u32::from_be_bytes(self.array("the trailer")?);
        let expected = self.whole.digest();
        if u64::from_be_bytes(self.array("the trailer")?) != expected || count as usize != files.len() {
            return Err(ArchiveError::Damaged { what: "the checksum of the whole is wrong".to_owned() });
        }
        if self.input.read(&mut [0]).map_err(io_error("the archive"))? != 0 {
            return Err(ArchiveError::Damaged { what: "something follows its end".to_owned() });
        }
        Ok(Contents { note, files })
    }

    fn header(&mut self) -> Result<String, ArchiveError> {
        let mut magic = [0; 16];
        match self.input.read_exact(&mut magic) {
            Ok(()) if magic == MAGIC => self.whole.update(&magic),
            Ok(()) => return Err(ArchiveError::NotAnArchive),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(ArchiveError::NotAnArchive),
            Err(error) => return Err(io_error("the archive")(error)),
        }
        match self.array("the header")? {
            [VERSION] => {}
            [found] => return Err(ArchiveError::Newer { found }),
        }
        let length = u32::from_be_bytes(self.array("the header")?) as usize;
        if length > NOTE_BYTES_MAX {
            return Err(ArchiveError::Damaged { what: "the header is wrong".to_owned() });
        }
        let mut note = vec![0; length];
        self.exact(&mut note, "the header")?;
        let expected = self.whole.digest();
        let check = u64::from_be_bytes(self.array("the header")?);
        String::from_utf8(note)
            .ok()
            .filter(|_| check == expected)
            .ok_or_else(|| ArchiveError::Damaged { what: "the checksum of the header is wrong".to_owned() })
    }

    fn file(
        &mut self,
        create: &mut impl FnMut(&str) -> io::Result<Option<File>>,
    ) -> Result<(String, u64), ArchiveError> {
        let length = u16::from_be_bytes(self.array("a file's name")?);
        let mut name = vec![0; usize::from(length)];
        self.exact(&mut name, "a file's name")?;
        let name = String::from_utf8(name)
            .ok()
            .filter(|name| is_plain(name))
            .ok_or_else(|| ArchiveError::Damaged { what: "the name of a file is wrong".to_owned() })?;
        let bytes = u64::from_be_bytes(self.array(&name)?);
        let mut output = create(&name).map_err(io_error(&name))?;
        let mut hash = Xxh3::new();
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut left = bytes;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            let part = &mut buffer[..part];
            self.exact(part, &name)?;
            hash.update(part);
            if let Some(output) = &mut output {
                output.write_all(part).map_err(io_error(&name))?;
            }
            left -= part.len() as u64;
        }
        if u64::from_be_bytes(self.array(&name)?) != hash.digest() {
            return Err(ArchiveError::Damaged { what: format!("the checksum of {name} is wrong") });
        }
        if let Some(output) = output {
            output.sync_all().map_err(io_error(&name))?;
        }
        Ok((name, bytes))
    }

    fn exact(&mut self, buffer: &mut [u8], in_what: &str) -> Result<(), ArchiveError> {
        match self.input.read_exact(buffer) {
            Ok(()) => {
                self.whole.update(buffer);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(ArchiveError::Truncated { in_what: in_what.to_owned() })
            }
            Err(error) => Err(io_error("the archive")(error)),
        }
    }

    fn array<const N: usize>(&mut self, in_what: &str) -> Result<[u8; N], ArchiveError> {
        let mut array = [0; N];
        self.exact(&mut array, in_what)?;
        Ok(array)
    }
}

/// A name that stays in its directory.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

/// Lengths here are bounded far below 4 GiB; a larger one would be noticed by the reader's checksum.
fn length_u32(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
#[path = "archive/fuzz.rs"]
mod fuzz;
#[cfg(test)]
#[path = "archive/tests.rs"]
mod tests;
