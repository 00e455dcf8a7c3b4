//! [`Watch`]: whether a builder still gets on. One that a stranger's bytes have sent astray may sleep,
//! stop reading or work for ever, and holds the one place where images are built.

use std::time::{Duration, Instant};

use loam_deployment::Bytes;

use super::{pace::Patience, stop::Stop};

/// Why a builder is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    #[error("it is no longer wanted")]
    Stopped,
    #[error("the builder got no further for {0:?} and was ended")]
    Idle(Duration),
    #[error("the builder was not done after {0:?} and was ended")]
    TooLong(Duration),
    #[error("the builder made more than {0} of an image that cannot take so much, and was ended")]
    TooMuch(Bytes),
}

#[derive(Debug)]
pub struct Watch {
    stop: Stop,
    began: Instant,
    most: Duration,
    idle: Duration,
    /// What it makes may take so much at most.
    space: Bytes,
    seen: u64,
    seen_at: Instant,
}

impl Watch {
    pub fn new(stop: &Stop, patience: &Patience, space: Bytes) -> Self {
        let now = Instant::now();
        Self {
            stop: stop.clone(),
            began: now,
            most: patience.pack,
            idle: patience.idle,
            space,
            seen: 0,
            seen_at: now,
        }
    }

    /// Whether it may go on. `progress` is another number whenever it got further, `made` the bytes that
    /// what it has made takes.
    pub fn check(&mut self, progress: u64, made: u64) -> Result<(), Ended> {
        if made > self.space.get() {
            return Err(Ended::TooMuch(self.space));
        }
        let now = Instant::now();
        if progress != self.seen {
            (self.seen, self.seen_at) = (progress, now);
        }
        if self.stop.is_set() {
            Err(Ended::Stopped)
        } else if now - self.began > self.most {
            Err(Ended::TooLong(self.most))
        } else if now - self.seen_at > self.idle {
            Err(Ended::Idle(self.idle))
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_on_may_go_on_until_the_whole_time_is_over() {
        let short = Duration::from_millis(50);
        let mut patience = Patience {
            idle: short,
            ..Patience::USUAL
        };
        let stop = Stop::default();
        let mut watch = Watch::new(&stop, &patience, Bytes::mib(1));
        for progress in 1..10 {
            watch.check(progress, 0).unwrap();
            watch.seen_at -= short;
        }
        assert_eq!(watch.check(9, 0), Err(Ended::Idle(short)));
        watch.check(10, 0).unwrap();
        stop.set();
        assert_eq!(watch.check(11, 0), Err(Ended::Stopped));

        patience.pack = short;
        let mut watch = Watch::new(&Stop::default(), &patience, Bytes::mib(1));
        watch.check(1, 0).unwrap();
        watch.began -= short;
        assert_eq!(watch.check(2, 0), Err(Ended::TooLong(short)));
    }
}
