//! Model files from strangers: an error each, never a panic.
#![allow(missing_docs, clippy::unwrap_used)]

use engine::{EngineError, Model, formats::gguf::Gguf};
use proptest::prelude::*;

static GOOD: &[u8] = include_bytes!("../../../models/taskmaster-chat/taskmaster-chat-q8_0.gguf");
/// Where the header (metadata and tensor infos) ends.
const HEADER: usize = 64_282;

fn find(needle: &[u8]) -> usize {
    GOOD.windows(needle.len()).position(|w| w == needle).unwrap()
}

fn changed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = GOOD.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

fn error(file: &[u8]) -> String {
    Model::parse(file).unwrap_err().to_string()
}

#[test]
fn the_good_file_loads() {
    let model = Model::parse(GOOD).unwrap();
    assert_eq!(model.manifest().parameters, 4_951_296);
    assert_eq!((model.manifest().vocab_size, model.context_length()), (2048, 512));
}

#[test]
fn each_kind_of_damage_has_its_message() {
    assert!(error(b"").contains("ends inside a value"));
    assert!(error(b"PK\x03\x04 something else").contains("does not begin with GGUF"));
    assert!(error(&changed(4, &9u32.to_le_bytes())).contains("version 9"));
    assert!(error(&changed(8, &u64::MAX.to_le_bytes())).contains("at most"));
    assert!(error(&changed(16, &u64::MAX.to_le_bytes())).contains("at most"));
    // The length of the first key.
    assert!(error(&changed(24, &u64::MAX.to_le_bytes())).contains("ends inside a value"));
    // An array that claims more elements than there are bytes.
    let tokens = find(b"tokenizer.ggml.tokens") + b"tokenizer.ggml.tokens".len() + 8;
    assert!(error(&changed(tokens, &(1u64 << 60).to_le_bytes())).contains("more than the file has"));
    let name_at = find(b"tokenizer.ggml.model");
    assert!(error(&changed(name_at, b"tokenizer.ggml.mod3l")).contains("tokenizer.ggml.model is missing"));
    assert!(
        error(&changed(find(b"output_norm.weight"), b"output_n0rm.weight"))
            .contains("output_norm.weight is missing")
    );
    // Dimensions, type and offset of the first tensor's info: name, u32 n, 2 x u64 dims, u32 type, u64 offset.
    let info = find(b"token_embd.weight") + b"token_embd.weight".len();
    assert!(error(&changed(info, &0u32.to_le_bytes())).contains("0 dimensions"));
    assert!(error(&changed(info + 4, &0u64.to_le_bytes())).contains("the size [0"));
    assert!(error(&changed(info + 4, &(1u64 << 63).to_le_bytes())).contains("size"));
    assert!(error(&changed(info + 4, &255u64.to_le_bytes())).contains("no multiple of 32"));
    assert!(error(&changed(info + 4, &512u64.to_le_bytes())).contains("overlaps"));
    assert!(error(&changed(info + 20, &99u32.to_le_bytes())).contains("type 99"));
    assert!(
        error(&changed(info + 24, &1u64.to_le_bytes())).contains("overlaps another one or is not aligned")
    );
    assert!(error(&changed(info + 24, &(1u64 << 62).to_le_bytes())).contains("file ends before"));
    // Hyper-parameters.
    let layers = find(b"llama.block_count") + b"llama.block_count".len() + 4;
    assert!(error(&changed(layers, &0u32.to_le_bytes())).contains("llama.block_count is 0"));
    assert!(error(&changed(layers, &u32::MAX.to_le_bytes())).contains("block_count"));
    assert!(error(&changed(layers, &7u32.to_le_bytes())).contains("blk.6"));
    // The first scale of the first matrix becomes infinite, and a norm becomes NaN.
    let data = HEADER.next_multiple_of(32);
    assert!(error(&changed(data, &0x7c00u16.to_le_bytes())).contains("NaN or infinite"));
    assert!(error(&changed(data + 557_056, &f32::NAN.to_le_bytes())).contains("NaN or infinity"));
}

#[test]
fn every_truncation_of_the_header_is_an_error() {
    for n in (0..HEADER).step_by(97).chain([GOOD.len() - 1]) {
        assert!(matches!(Gguf::parse(&GOOD[..n]), Err(EngineError::Format(_))), "{n} bytes");
    }
}

#[test]
fn a_missing_file_is_named() {
    let missing = std::path::Path::new("/nonexistent/model.gguf");
    assert!(Model::open(missing).unwrap_err().to_string().contains("/nonexistent/model.gguf"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn mutated_headers_never_panic(changes in prop::collection::vec((0usize..HEADER, any::<u8>()), 1..6)) {
        let mut file = GOOD.to_vec();
        for (at, byte) in changes {
            file[at] = byte;
        }
        let _ = Gguf::parse(&file);
    }

    #[test]
    fn mutated_numbers_never_panic_a_load(at in 0usize..2000, value in prop_oneof![Just(0u64), Just(u64::MAX), any::<u64>(), 0u64..4096]) {
        let mut file = GOOD.to_vec();
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let _ = Model::parse(&file);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Gguf::parse(&bytes);
        let _ = Gguf::parse(&[b"GGUF\x03\0\0\0".as_slice(), &bytes].concat());
    }
}
