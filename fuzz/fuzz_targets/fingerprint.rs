//! See [`oncemail_fuzz::fingerprint`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oncemail_fuzz::fingerprint::run(input));
