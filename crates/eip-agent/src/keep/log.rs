//! Lines that are added one by one, each with a checksum, so that one which was cut short is known.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

#[derive(Debug)]
pub(super) struct Log {
    file: File,
    length: u64,
}

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    /// The file that the log goes on from.
    continues: u64,
}

impl Log {
    /// Begins a log that goes on from the file of this number.
    pub(super) fn begin(path: &Path, continues: u64) -> io::Result<Self> {
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let mut log = Self { file, length: 0 };
        log.add(&Head { continues })?;
        Ok(log)
    }

    /// Reads a log, hands each line to `take`, and returns it for more.
    ///
    /// A last line that is not whole was being written when the host lost its power, and was not
    /// acknowledged to anyone: the log ends before it. So it does before any line that is not as it was
    /// written, or that `take` refuses: what follows goes on from what is not known. None where
    /// there is no log, or one that goes on from another file.
    pub(super) fn read<T: DeserializeOwned>(
        path: &Path,
        continues: u64,
        mut take: impl FnMut(T) -> Result<(), String>,
    ) -> Option<Self> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    warn!(path = %path.display(), %error, "Could not read the log of the agent");
                }
                return None;
            }
        };
        let mut lines = text.split_inclusive(|byte| *byte == b'\n');
        let head = lines.next()?;
        let Head { continues: named } = parse(head).ok()?;
        if named != continues {
            return None;
        }
        let mut good = head.len();
        for line in lines {
            let taken = parse(line).and_then(&mut take);
            if let Err(why) = taken {
                let path = path.display();
                if good + line.len() == text.len() {
                    info!(%path, "The last line of the agent's log was cut short; it is left out");
                } else {
                    warn!(%path, at = good, why, "The agent's log is damaged; it ends before that");
                }
                break;
            }
            good += line.len();
        }
        let file = File::options().write(true).open(path).ok()?;
        let length = u64::try_from(good).ok()?;
        if good != text.len() {
            // On the disk ahead of what takes its place: a part of it must not be left behind that.
            file.set_len(length).and_then(|()| file.sync_data()).ok()?;
        }
        Some(Self { file, length })
    }

    /// In bytes.
    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// Adds a line, and returns when it is on the disk. After an error the log may not be gone on with.
    pub(super) fn add(&mut self, entry: &impl Serialize) -> io::Result<()> {
        let json = serde_json::to_vec(entry)?;
        let mut line = Vec::with_capacity(json.len() + 10);
        write!(line, "{:08x} ", checksum(&json))?;
        line.extend_from_slice(&json);
        line.push(b'\n');
        self.file.write_all_at(&line, self.length)?;
        self.file.sync_data()?;
        self.length += u64::try_from(line.len()).unwrap_or(u64::MAX);
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    let whole = line.strip_suffix(b"\n").ok_or("it has no end")?;
    let (sum, json) = whole.split_at_checked(9).ok_or("it is too short")?;
    let sum = std::str::from_utf8(sum).ok().and_then(|text| text.strip_suffix(' '));
    let sum = sum.and_then(|text| u32::from_str_radix(text, 16).ok());
    if sum != Some(checksum(json)) {
        return Err("its checksum is wrong".to_owned());
    }
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

/// CRC-32 as in IEEE 802.3, reflected: a line that was cut, or written over, does not have it.
fn checksum(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    let step = |sum: u32, byte: &u8| {
        let [low, ..] = sum.to_le_bytes();
        (sum >> 8) ^ TABLE[usize::from(low ^ byte)]
    };
    !bytes.iter().fold(u32::MAX, step)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let (mut at, mut start) = (0, 0_u32);
    while at < table.len() {
        let (mut sum, mut bit) = (start, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
            bit += 1;
        }
        table[at] = sum;
        at += 1;
        start += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path, continues: u64) -> Option<Vec<u32>> {
        let mut all = Vec::new();
        Log::read(path, continues, |line: u32| {
            all.push(line);
            Ok(())
        })?;
        Some(all)
    }

    #[test]
    fn the_checksum_is_the_one_that_others_call_crc_32() {
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn wherever_a_log_is_cut_its_whole_lines_are_there_and_it_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.log");
        let mut log = Log::begin(&path, 7).unwrap();
        for line in 1000..1010_u32 {
            log.add(&line).unwrap();
        }
        assert_eq!(lines(&path, 8), None, "another file's");
        let text = std::fs::read(&path).unwrap();
        let head = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for length in head..=text.len() {
            std::fs::write(&path, &text[..length]).unwrap();
            let whole = u32::try_from((length - head) / 14).unwrap();
            let wanted: Vec<u32> = (1000..1000 + whole).collect();
            assert_eq!(lines(&path, 7), Some(wanted.clone()));
            let mut log = Log::read(&path, 7, |_: u32| Ok(())).unwrap();
            log.add(&5555_u32).unwrap();
            assert_eq!(lines(&path, 7), Some([wanted, vec![5555]].concat()));
        }
    }

    #[test]
    fn a_log_ends_before_the_first_line_that_is_not_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.log");
        let mut log = Log::begin(&path, 7).unwrap();
        for line in 1000..1010_u32 {
            log.add(&line).unwrap();
        }
        let text = std::fs::read(&path).unwrap();
        for at in 0..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 0x01;
            std::fs::write(&path, &damaged).unwrap();
            let found = lines(&path, 7).unwrap_or_default();
            assert!(found.len() < 10, "byte {at}");
            assert!(found.iter().copied().eq((1000..).take(found.len())), "byte {at}: {found:?}");
        }
    }
}
