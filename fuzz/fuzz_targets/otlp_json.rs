#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| farshore_fuzz::run("otlp_json", data));
