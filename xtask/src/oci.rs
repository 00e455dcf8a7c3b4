//! OCI image layouts made for tests and the demo.
