//! See [`oncemail_fuzz::data`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oncemail_fuzz::data::run(input));
