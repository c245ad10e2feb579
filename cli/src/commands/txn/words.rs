//! Words of a line of the transaction language: bare, or quoted with escapes.
//!
//! Invariants:
//! - A quoted word stays apart from a bare one: `"ttl=5s"` is a value, never an option.

use bytes::Bytes;

/// One word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    bytes: Vec<u8>,
    quoted: bool,
}

impl Word {
    /// The bytes, quotes and escapes resolved.
    pub fn bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.bytes)
    }

    /// The word as text, where the language expects a word of its own.
    pub fn text(&self) -> Result<&str, String> {
        if self.quoted {
            return Err(format!("\"{}\" is quoted where a plain word is expected", self.bytes.escape_ascii()));
        }
        std::str::from_utf8(&self.bytes).map_err(|_| "a plain word is UTF-8".to_owned())
    }

    /// What follows `name=`.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.text().ok()?.strip_prefix(name)?.strip_prefix('=')
    }
}

/// Splits a line; `#` at the start of a word begins a comment.
pub fn split(line: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (bytes, after) = unquote(quoted)?;
            if after.chars().next().is_some_and(|c| !c.is_whitespace()) {
                return Err("after a closing quote comes a space".to_owned());
            }
            words.push(Word { bytes, quoted: true });
            rest = after.trim_start();
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            words.push(Word { bytes: word.as_bytes().to_vec(), quoted: false });
            rest = after.trim_start();
        }
    }
    Ok(words)
}

/// The bytes up to the closing quote, and what follows it.
fn unquote(text: &str) -> Result<(Vec<u8>, &str), String> {
    let mut bytes = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((bytes, &text[at + 1..])),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => bytes.push(b'\n'),
                Some('t') => bytes.push(b'\t'),
                Some('r') => bytes.push(b'\r'),
                Some('0') => bytes.push(0),
                Some(c @ ('"' | '\\')) => bytes.push(c as u8),
                Some('x') => {
                    let hex: String = chars.by_ref().take(2).map(|(_, c)| c).collect();
                    // Checked first, because from_str_radix also takes a sign.
                    let digits = hex.len() == 2 && hex.bytes().all(|c| c.is_ascii_hexdigit());
                    let byte = u8::from_str_radix(&hex, 16).ok().filter(|_| digits);
                    bytes.push(byte.ok_or_else(|| format!("\\x{hex} is not \\x and two digits"))?);
                }
                _ => return Err("a backslash is followed by n, t, r, 0, x and two digits, \" or \\".to_owned()),
            },
            c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Err("a quote is not closed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(line: &str) -> Vec<Vec<u8>> {
        split(line).unwrap().into_iter().map(|word| word.bytes).collect()
    }

    #[test]
    fn words_quotes_escapes_and_comments() {
        assert_eq!(bytes("  put /a  x # no more"), [&b"put"[..], b"/a", b"x"]);
        assert_eq!(bytes(r#"put "a b" "x\"\\\n\x00\xff" "" "#), [&b"put"[..], b"a b", b"x\"\\\n\x00\xff", b""]);
        assert_eq!(bytes("get /a#b"), [&b"get"[..], b"/a#b"]);
        assert!(bytes("# only").is_empty());
        assert!(bytes("").is_empty());
    }

    #[test]
    fn what_is_not_well_quoted_is_refused() {
        assert!(split("put /a \"x").unwrap_err().contains("not closed"));
        assert!(split("put /a \"x\"y").unwrap_err().contains("comes a space"));
        assert!(split(r#"put /a "\q""#).unwrap_err().contains("backslash"));
        assert!(split(r#"put /a "\xg1""#).unwrap_err().contains("two digits"));
    }
}
