//! See [`oncemail_fuzz::recovery`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oncemail_fuzz::recovery::run(input));
