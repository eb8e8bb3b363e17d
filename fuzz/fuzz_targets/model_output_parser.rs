//! See `model_output_parser` in the library.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| herd_fuzz::run("model_output_parser", data));
