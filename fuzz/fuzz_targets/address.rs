//! See [`oncemail_fuzz::address`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oncemail_fuzz::address::run(input));
