//! See [`oncemail_fuzz::command`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oncemail_fuzz::command::run(input));
