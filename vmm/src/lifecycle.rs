//! [`Lifecycle`]: how the parts of a machine that have threads are paused and ended.

/// Implemented by whatever runs by itself: the CPUs, each virtio device's worker.
///
/// The machine starts a part once, when it makes it. Then `pause` and `resume` alternate, and
/// `halt` comes last, at most once, in either state. CPUs are paused before devices and resumed
/// after them, so that no CPU ever waits for a device that is paused.
pub trait Lifecycle {
    /// Returns when the part does nothing any more and touches no guest memory.
    fn pause(&self);
    fn resume(&self);
    /// Ends the part for good; what it had begun is finished first.
    fn halt(&self);
}
