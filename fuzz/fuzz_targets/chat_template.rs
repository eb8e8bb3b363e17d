//! See `chat_template` in the library.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| herd_fuzz::run("chat_template", data));
