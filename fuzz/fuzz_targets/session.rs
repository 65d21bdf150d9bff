//! See [`oncemail_fuzz::session`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oncemail_fuzz::session::run(input));
