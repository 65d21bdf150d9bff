//! See [`oncemail_fuzz::history`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oncemail_fuzz::history::run(input));
