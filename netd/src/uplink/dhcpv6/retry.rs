//! When to ask again (RFC 8415 15).

use std::time::Duration;

use crate::uplink::moment::Dice;

/// How long a message waits for an answer, and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// IRT.
    pub first: Duration,
    /// MRT.
    pub longest: Duration,
}

/// Waits that double, each a tenth longer or shorter by chance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// RTprev.
    last: Option<Duration>,
}

impl Retry {
    pub fn next(&mut self, limits: Limits, dice: Dice) -> Duration {
        let wait = match self.last {
            // Never shorter than the first: RFC 8415 18.2.1 demands it of a solicitation, whose
            // first wait is for other servers to speak as well.
            None => limits.first + limits.first * tenth(dice) / 1000,
            Some(last) => around(last.saturating_mul(2), last, dice),
        };
        let wait = if wait > limits.longest {
            around(limits.longest, limits.longest, dice)
        } else {
            wait
        };
        self.last = Some(wait);
        wait
    }
}

/// From 1 to 100 thousandths.
fn tenth(dice: Dice) -> u32 {
    dice.fraction() % 100 + 1
}

/// `middle`, more or less by up to a tenth of `by`.
fn around(middle: Duration, by: Duration, dice: Dice) -> Duration {
    let tenth = by * tenth(dice) / 1000;
    // The lowest bit of what `tenth` does not look at.
    if (dice.fraction() / 100).is_multiple_of(2) {
        middle.saturating_add(tenth)
    } else {
        middle.saturating_sub(tenth)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SOLICIT: Limits = Limits {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(3600),
    };

    proptest! {
        #[test]
        fn waits_double_up_to_the_longest_give_or_take_a_tenth(dice in proptest::collection::vec(any::<u64>(), 20)) {
            let mut retry = Retry::default();
            let mut last = Duration::ZERO;
            for (n, dice) in dice.into_iter().enumerate() {
                let wait = retry.next(SOLICIT, Dice(dice));
                let seconds = wait.as_secs_f64();
                match n {
                    0 => prop_assert!(seconds > 1.0 && seconds <= 1.1, "{seconds}"),
                    _ if wait < Duration::from_secs(3240) => {
                        let ratio = seconds / last.as_secs_f64();
                        prop_assert!((1.89..=2.11).contains(&ratio), "{ratio}");
                    }
                    _ => prop_assert!((3240.0..=3961.0).contains(&seconds), "{seconds}"),
                }
                last = wait;
            }
            prop_assert!(last >= Duration::from_secs(3200));
        }
    }
}
