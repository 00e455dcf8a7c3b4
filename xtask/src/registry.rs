//! The OCI registry that tests and the demo run on loopback.
