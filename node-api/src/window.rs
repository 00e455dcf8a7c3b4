//! [`WindowSize`]: how large the terminal is at which a machine's console is shown.

use serde::{Deserialize, Serialize};

/// In characters; 0 where it is not known (tty_ioctl(4), `TIOCSWINSZ`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    pub columns: u16,
    pub rows: u16,
}
