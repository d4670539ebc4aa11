//! Replaces references to an atom cache by the atoms themselves.

use bytes::{BufMut, BytesMut};

use super::{ReadError, Reader, tag};

/// The reason why a term was not expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// The bytes are not a term.
    #[error(transparent)]
    Term(#[from] ReadError),
    /// The term refers to an atom that is not in the list.
    #[error("reference to atom {0}, which is not there")]
    NoSuchAtom(u8),
    /// The expanded term would exceed the limit.
    #[error("longer than {0} bytes")]
    TooLong(usize),
}

/// A fun whose end the walk has not reached.
struct Fun {
    ends: usize,
    /// The offset of its size field in the output.
    size_at: usize,
}

/// Appends the term at the start of `input` to `out`, with the encoded atoms of `atoms` in place of
/// references to them. Returns the length of the term in `input`.
///
/// The term need not have been scanned; the caller must scan the result. `out` never grows beyond
/// `limit`.
pub fn expand(
    input: &[u8],
    atoms: &[impl AsRef<[u8]>],
    limit: usize,
    out: &mut BytesMut,
) -> Result<usize, ExpandError> {
    let mut copy = Copy { input, atoms, limit, out, copied: 0 };
    let end = copy.walk()?;
    copy.up_to(end)?;
    Ok(end)
}

/// Does the same as [`expand`], but stops copying after the last reference. Returns the number of
/// bytes of `input` that this covers; the caller appends the rest of `input` unchanged.
pub fn expand_start(
    input: &[u8],
    atoms: &[impl AsRef<[u8]>],
    limit: usize,
    out: &mut BytesMut,
) -> Result<usize, ExpandError> {
    let mut copy = Copy { input, atoms, limit, out, copied: 0 };
    copy.walk()?;
    Ok(copy.copied)
}

/// Copies the bytes between references.
struct Copy<'a, A> {
    input: &'a [u8],
    atoms: &'a [A],
    limit: usize,
    out: &'a mut BytesMut,
    /// The number of bytes of the input that are in the output.
    copied: usize,
}

impl<A: AsRef<[u8]>> Copy<'_, A> {
    /// Copies up to the last reference or the end of the last fun. Returns the end of the term.
    fn walk(&mut self) -> Result<usize, ExpandError> {
        let mut reader = Reader::new(self.input);
        let mut left: u64 = 1;
        let mut funs: Vec<Fun> = Vec::new();
        while left > 0 {
            left -= 1;
            match reader.peek_tag()? {
                tag::ATOM_CACHE_REF => self.atom(&mut reader)?,
                tag::NEW_PID | tag::V4_PORT => self.identifier(&mut reader, 1, 12)?,
                tag::NEW_PORT => self.identifier(&mut reader, 1, 8)?,
                tag::NEWER_REFERENCE => {
                    let mut ahead = reader;
                    ahead.u8()?;
                    let words = usize::from(ahead.u16()?);
                    self.identifier(&mut reader, 3, 4 + 4 * words)?;
                }
                tag::NEW_FUN => {
                    reader.u8()?;
                    let start = self.input.len() - reader.rest().len();
                    self.up_to(start)?;
                    let size_at = self.out.len();
                    let size = reader.u32()? as usize;
                    reader.pass(1 + 16 + 4)?;
                    left += u64::from(reader.u32()?) + 4;
                    funs.push(Fun { ends: start.saturating_add(size), size_at });
                }
                _ => left += reader.step()?,
            }
            let at = self.input.len() - reader.rest().len();
            while let Some(fun) = funs.pop_if(|fun| fun.ends <= at) {
                if fun.ends < at {
                    return Err(ReadError::Malformed("fun size").into());
                }
                self.up_to(at)?;
                let size = (self.out.len() - fun.size_at) as u32;
                if let Some(place) = self.out.get_mut(fun.size_at..fun.size_at + 4) {
                    place.copy_from_slice(&size.to_be_bytes());
                }
            }
        }
        Ok(self.input.len() - reader.rest().len())
    }

    fn up_to(&mut self, at: usize) -> Result<(), ExpandError> {
        let part = self.input.get(self.copied..at).unwrap_or_default();
        self.copied = at;
        self.put(part)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ExpandError> {
        if self.out.len().saturating_add(bytes.len()) > self.limit {
            return Err(ExpandError::TooLong(self.limit));
        }
        self.out.put_slice(bytes);
        Ok(())
    }

    /// Passes an atom, or replaces a reference by its atom.
    fn atom(&mut self, reader: &mut Reader<'_>) -> Result<(), ExpandError> {
        if reader.peek_tag()? != tag::ATOM_CACHE_REF {
            reader.atom()?;
            return Ok(());
        }
        self.up_to(self.input.len() - reader.rest().len())?;
        reader.u8()?;
        let index = reader.u8()?;
        self.copied = self.input.len() - reader.rest().len();
        let atoms = self.atoms;
        let atom = atoms.get(usize::from(index)).ok_or(ExpandError::NoSuchAtom(index))?;
        self.put(atom.as_ref())
    }

    /// Passes an identifier: `before` bytes, a node name and `after` bytes.
    fn identifier(
        &mut self,
        reader: &mut Reader<'_>,
        before: usize,
        after: usize,
    ) -> Result<(), ExpandError> {
        reader.pass(before)?;
        self.atom(reader)?;
        Ok(reader.pass(after)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATOMS: [&[u8]; 3] = [b"\x77\x02ok", b"\x77\x03a@h", b"\x77\x01m"];

    fn expanded(input: &[u8]) -> Result<Vec<u8>, ExpandError> {
        let mut out = BytesMut::new();
        let len = expand(input, &ATOMS, 1000, &mut out)?;
        assert_eq!(len, input.len());
        Ok(out.to_vec())
    }

    #[test]
    fn references_become_atoms_wherever_they_are() {
        for (input, output) in [
            (&b"\x52\x00"[..], &b"\x77\x02ok"[..]),
            (b"\x68\x02\x52\x00\x61\x01", b"\x68\x02\x77\x02ok\x61\x01"),
            (
                b"\x58\x52\x01\0\0\0\x01\0\0\0\x02\0\0\0\x03",
                b"\x58\x77\x03a@h\0\0\0\x01\0\0\0\x02\0\0\0\x03",
            ),
            (
                b"\x5a\0\x01\x52\x01\0\0\0\x01\0\0\0\x02",
                b"\x5a\0\x01\x77\x03a@h\0\0\0\x01\0\0\0\x02",
            ),
            (b"\x71\x52\x02\x52\x00\x61\x01", b"\x71\x77\x01m\x77\x02ok\x61\x01"),
            (
                b"\x74\0\0\0\x01\x52\x00\x6d\0\0\0\x02\x52\x00",
                b"\x74\0\0\0\x01\x77\x02ok\x6d\0\0\0\x02\x52\x00",
            ),
            (b"\x61\x52", b"\x61\x52"),
        ] {
            assert_eq!(expanded(input).as_deref(), Ok(output));
        }
    }

    #[test]
    fn what_follows_the_last_reference_is_left_where_it_is() {
        for (input, left) in [
            (&b"\x68\x02\x52\x00\x61\x01"[..], 2),
            (b"\x68\x02\x61\x01\x52\x00", 0),
            (b"\x68\x02\x61\x01\x61\x02", 6),
        ] {
            let mut out = BytesMut::new();
            let copied = expand_start(input, &ATOMS, 1000, &mut out).unwrap();
            assert_eq!(input.len() - copied, left);
            out.put_slice(&input[copied..]);
            assert_eq!(out.to_vec(), expanded(input).unwrap());
        }
    }

    #[test]
    fn the_size_of_a_fun_is_that_of_what_was_written_out() {
        let mut input = b"\x70\0\0\0\0\x01".to_vec();
        input.extend([7; 16]);
        input.extend(b"\0\0\0\x01\0\0\0\x01\x52\x02\x61\x01\x61\x02\x58\x52\x01\0\0\0\x01\0\0\0\x02\0\0\0\x03\x52\x00");
        let size = (input.len() - 1) as u32;
        input[1..5].copy_from_slice(&size.to_be_bytes());
        let output = expanded(&input).unwrap();
        assert_eq!(super::super::Scanner::default().scan(&output, 0), Ok(output.len()));
        input[4] -= 1;
        assert!(expanded(&input).is_err());
    }

    #[test]
    fn short_references_to_long_atoms_do_not_exceed_the_limit() {
        let long = vec![b'x'; 300];
        let mut input = vec![104, 200];
        input.extend([82, 0].repeat(200));
        let outcome = expand(&input, &[long], 1000, &mut BytesMut::new());
        assert_eq!(outcome, Err(ExpandError::TooLong(1000)));
        assert_eq!(expanded(b"\x52\x03"), Err(ExpandError::NoSuchAtom(3)));
    }
}
