//! [`Watch`]: whether a builder still gets on. One that a stranger's bytes have sent astray may sleep,
//! stop reading or work for ever, and holds the one place where images are built.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use loam_deployment::Bytes;

use super::{pace::Patience, stop::Stop};

/// How often it is looked what is left of the disk.
const LOOK: Duration = Duration::from_millis(200);

/// What a builder's disk has left.
pub trait Room: fmt::Debug + Send + Sync {
    /// What may be taken of it until others may not get what they are promised. Blocks. `None` if it cannot be
    /// asked, which is no fault of a builder's.
    fn left(&self) -> Option<Bytes>;

    /// The same, once what was removed is free.
    fn left_after_removals(&self) -> Option<Bytes> {
        self.left()
    }
}

/// Why a builder is ended, or a copy of what it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    #[error("is no longer wanted")]
    Stopped,
    #[error("got no further for {0:?} and was ended")]
    Idle(Duration),
    #[error("was not done after {0:?} and was ended")]
    TooLong(Duration),
    #[error("made more than {0} of an image that cannot take so much, and was ended")]
    TooMuch(Bytes),
    #[error("took its disk up until others might not get what they are promised, and was ended")]
    Short,
}

#[derive(Debug)]
pub struct Watch {
    stop: Stop,
    began: Instant,
    most: Duration,
    idle: Duration,
    /// What it makes may take so much at most.
    space: Bytes,
    /// A file says little about what it takes of a btrfs: of an extent, one block that is left of it keeps
    /// the whole.
    room: Option<Arc<dyn Room>>,
    looked: Option<Instant>,
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
            room: None,
            looked: None,
            seen: 0,
            seen_at: now,
        }
    }

    /// With an eye on the disk that the builder writes to.
    pub fn on(self, room: Arc<dyn Room>) -> Self {
        Self {
            room: Some(room),
            ..self
        }
    }

    /// For the copy of what the builder made. How long that takes is the disk's doing, and what it may take is
    /// known: its end is in its bytes. But others fill the disk meanwhile, and what the builder held of it is
    /// held until the copy is done.
    pub fn of_copy(&self) -> Self {
        let now = Instant::now();
        Self {
            stop: self.stop.clone(),
            began: now,
            most: Duration::MAX,
            idle: self.idle,
            space: self.space,
            room: self.room.clone(),
            looked: None,
            seen: 0,
            seen_at: now,
        }
    }

    /// Whether the disk has so much left, as far as that can be told. Blocks.
    pub fn has_room_for(&self, bytes: Bytes) -> bool {
        let left = self.room.as_ref().and_then(|room| room.left());
        left.is_none_or(|left| left >= bytes)
    }

    /// What it makes may take so much at most.
    pub fn space(&self) -> Bytes {
        self.space
    }

    /// It has nothing to do, and so gets no further.
    pub fn rest(&mut self) {
        self.seen_at = Instant::now();
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
        } else if self.is_short(now) {
            Err(Ended::Short)
        } else {
            Ok(())
        }
    }

    fn is_short(&mut self, now: Instant) -> bool {
        let Some(room) = &self.room else { return false };
        if self.looked.is_some_and(|looked| now - looked < LOOK) {
            return false;
        }
        self.looked = Some(now);
        room.left() == Some(Bytes(0))
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
        let mut copy = watch.of_copy();
        copy.began -= 2 * short;
        copy.check(1, 0).unwrap();
        copy.seen_at -= short;
        assert_eq!(copy.check(1, 0), Err(Ended::Idle(short)));
        let much = Bytes::mib(1).get() + 1;
        assert_eq!(copy.check(2, much), Err(Ended::TooMuch(Bytes::mib(1))));
    }
}
