//! See [`oncemail_fuzz::config`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oncemail_fuzz::config::run(input));
