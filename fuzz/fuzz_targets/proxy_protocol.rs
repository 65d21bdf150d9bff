//! See [`oncemail_fuzz::proxy_protocol`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oncemail_fuzz::proxy_protocol::run(input));
