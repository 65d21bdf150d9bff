//! See [`oncemail_fuzz::reply`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oncemail_fuzz::reply::run(input));
