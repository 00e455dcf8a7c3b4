//! What lies behind a right signature: whatever is accepted has one encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loam_deployment::{cbor, validate};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(payload) = cbor::decode(bytes) {
        assert_eq!(cbor::encode(&payload), bytes);
        assert_eq!(validate::payload(&payload), Ok(()));
    }
});
