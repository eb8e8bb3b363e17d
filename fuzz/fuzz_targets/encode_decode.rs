//! See `encode_decode` in the library.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| herd_fuzz::run("encode_decode", data));
