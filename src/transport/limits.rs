//! When a transport tells its protocol to stop writing, and when to go on.

use std::io;

/// The marks of a write buffer, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteBufferLimits {
    /// The protocol may write again when so much is left, or less.
    pub low: usize,
    /// The protocol shall pause when there is more than this.
    pub high: usize,
}

/// As asyncio has it.
const HIGH: usize = 64 << 10;

impl Default for WriteBufferLimits {
    /// 16 and 64 KiB.
    fn default() -> Self {
        Self { low: HIGH / 4, high: HIGH }
    }
}

impl WriteBufferLimits {
    /// Limits of which one or both are derived: the low one is a quarter of the high one, the high one four times the
    /// low one.
    ///
    /// # Errors
    /// `InvalidInput` if the low one is above the high one.
    pub fn new(high: Option<usize>, low: Option<usize>) -> io::Result<Self> {
        let high = high.unwrap_or_else(|| low.map_or(HIGH, |low| low.saturating_mul(4)));
        let low = low.unwrap_or(high / 4);
        if low > high {
            let text = format!("the low mark of a write buffer ({low}) is above the high one ({high})");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Self { low, high })
    }
}
