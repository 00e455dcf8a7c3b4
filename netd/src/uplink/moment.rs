//! Time and chance as values: the state machines of the uplink have no clock and no dice of their own.

use std::{ops::Add, time::Duration};

/// A point in time: what has passed since a beginning that is the same for all that is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

impl Moment {
    /// Later than all others.
    pub const NEVER: Self = Self(Duration::MAX);

    /// Nothing if `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, span: Duration) -> Moment {
        Moment(self.0.saturating_add(span))
    }
}

/// What is drawn for one event.
#[derive(Clone, Copy, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// A transaction's number.
    pub fn xid(self) -> u32 {
        self.0 as u32
    }

    /// Of which the number of a transaction says nothing.
    pub fn fraction(self) -> u32 {
        (self.0 >> 32) as u32
    }
}
