//! `cargo xtask mutants`: does anybody notice when the product is broken on purpose?
//!
//! | module | what |
//! |---|---|
//! | [`patch`] | mutants of the product as patches: what each breaks, and which case must go red |
//! | [`cases`] | applies them one by one, builds the image, and expects its case to fail |
//! | [`scratch`] | the copy of the workspace in which that happens |
//! | [`survivors`] | `cargo mutants` over the pure files, and the survivors that are accepted |
//!
//! It is a tool, not a part of CI: an image and a node for each patch take minutes.

pub mod cases;
pub mod patch;
pub mod scratch;
pub mod survivors;
