//! Model files: an error, or a model that answers for its sizes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(gguf) = engine::formats::gguf::Gguf::parse(bytes) {
        let held: usize = gguf.tensors.values().map(|t| t.data.len()).sum();
        assert!(held <= bytes.len(), "tensors lie apart and inside the file");
    }
    let _ = engine::Model::parse(bytes);
});
