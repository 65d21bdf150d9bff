//! See [`oncemail_fuzz::header`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oncemail_fuzz::header::run(input));
