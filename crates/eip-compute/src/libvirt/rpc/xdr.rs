//! XDR (RFC 4506), as far as libvirt's messages need it.
//!
//! Everything that is read comes from another process. So nothing is taken on trust: a length never
//! makes us reserve what has not arrived, and what does not fit is an error, never a panic.

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::libvirt) enum XdrError {
    #[error("it ends too early")]
    Short,
    #[error("it has {0} bytes too many")]
    Left(usize),
    #[error("a list of {count} where at most {most} may be")]
    TooMany { count: u32, most: u32 },
    #[error("a text of {length} bytes where at most {most} may be")]
    TooLong { length: u32, most: u32 },
    #[error("a yes or no that is {0}")]
    NotBoolean(u32),
}

/// Writes a message.
#[derive(Debug, Default)]
pub(in crate::libvirt) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(in crate::libvirt) fn int(mut self, value: i32) -> Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(in crate::libvirt) fn uint(mut self, value: u32) -> Self {
        self.bytes.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Bytes whose number both sides know; XDR fills up to a multiple of four.
    pub(in crate::libvirt) fn fixed(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    pub(in crate::libvirt) fn text(self, text: &[u8]) -> Self {
        // What we send is short; were it not, the other side would refuse it.
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.uint(length).fixed(text)
    }

    /// A text that may be absent, and is not.
    pub(in crate::libvirt) fn some_text(self, text: &[u8]) -> Self {
        self.uint(1).text(text)
    }

    pub(in crate::libvirt) fn no_text(self) -> Self {
        self.uint(0)
    }

    pub(in crate::libvirt) fn done(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads a message from its front.
#[derive(Debug, Clone, Copy)]
pub(in crate::libvirt) struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(in crate::libvirt) const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    pub(in crate::libvirt) fn uint(&mut self) -> Result<u32, XdrError> {
        let (head, rest) = self.left.split_first_chunk().ok_or(XdrError::Short)?;
        self.left = rest;
        Ok(u32::from_be_bytes(*head))
    }

    pub(in crate::libvirt) fn int(&mut self) -> Result<i32, XdrError> {
        let (head, rest) = self.left.split_first_chunk().ok_or(XdrError::Short)?;
        self.left = rest;
        Ok(i32::from_be_bytes(*head))
    }

    pub(in crate::libvirt) fn hyper(&mut self) -> Result<i64, XdrError> {
        let (head, rest) = self.left.split_first_chunk().ok_or(XdrError::Short)?;
        self.left = rest;
        Ok(i64::from_be_bytes(*head))
    }

    pub(in crate::libvirt) fn array<const N: usize>(&mut self) -> Result<[u8; N], XdrError> {
        let (head, rest) = self.left.split_first_chunk().ok_or(XdrError::Short)?;
        self.left = rest;
        Ok(*head)
    }

    /// A text of at most `most` bytes. libvirt does not promise that it is UTF-8.
    pub(in crate::libvirt) fn text(&mut self, most: u32) -> Result<&'a [u8], XdrError> {
        let length = self.uint()?;
        if length > most {
            return Err(XdrError::TooLong { length, most });
        }
        let length = usize::try_from(length).map_err(|_| XdrError::Short)?;
        let filled = self.left.get(length.next_multiple_of(4)..).ok_or(XdrError::Short)?;
        let text = self.left.get(..length).ok_or(XdrError::Short)?;
        self.left = filled;
        Ok(text)
    }

    pub(in crate::libvirt) fn maybe_text(
        &mut self,
        most: u32,
    ) -> Result<Option<&'a [u8]>, XdrError> {
        match self.uint()? {
            0 => Ok(None),
            1 => self.text(most).map(Some),
            other => Err(XdrError::NotBoolean(other)),
        }
    }

    /// A list of at most `most` things, each read by `one`.
    pub(in crate::libvirt) fn list<T>(
        &mut self,
        most: u32,
        mut one: impl FnMut(&mut Self) -> Result<T, XdrError>,
    ) -> Result<Vec<T>, XdrError> {
        let count = self.uint()?;
        if count > most {
            return Err(XdrError::TooMany { count, most });
        }
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(one(self)?);
        }
        Ok(all)
    }

    /// Says that the message ends here.
    pub(in crate::libvirt) const fn end(self) -> Result<(), XdrError> {
        match self.left.len() {
            0 => Ok(()),
            left => Err(XdrError::Left(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = Writer::default().int(-2).uint(7).text(b"web-1").some_text(b"x").no_text();
        let bytes = bytes.fixed(&[9; 16]).done();
        assert_eq!(bytes.len() % 4, 0);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.int(), Ok(-2));
        assert_eq!(reader.uint(), Ok(7));
        assert_eq!(reader.text(100), Ok(&b"web-1"[..]));
        assert_eq!(reader.maybe_text(100), Ok(Some(&b"x"[..])));
        assert_eq!(reader.maybe_text(100), Ok(None));
        assert_eq!(reader.array(), Ok([9; 16]));
        assert_eq!(reader.end(), Ok(()));
    }

    #[test]
    fn lengths_that_lie_are_errors() {
        let long = Writer::default().uint(u32::MAX).done();
        assert_eq!(Reader::new(&long).text(u32::MAX), Err(XdrError::Short));
        assert_eq!(
            Reader::new(&long).text(9),
            Err(XdrError::TooLong { length: u32::MAX, most: 9 })
        );
        let most = XdrError::TooMany { count: u32::MAX, most: 5 };
        assert_eq!(Reader::new(&long).list(5, Reader::uint), Err(most));
        assert_eq!(Reader::new(&long).list(u32::MAX, Reader::uint), Err(XdrError::Short));
        // Three bytes of text without the byte that fills them up.
        assert_eq!(Reader::new(&[0, 0, 0, 3, 1, 2, 3]).text(9), Err(XdrError::Short));
        assert_eq!(Reader::new(&[0, 0, 0, 2]).maybe_text(9), Err(XdrError::NotBoolean(2)));
        assert_eq!(Reader::new(&[0; 5]).end(), Err(XdrError::Left(5)));
    }
}
