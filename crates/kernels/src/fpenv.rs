/// True when this thread keeps denormal numbers (flush-to-zero and denormals-are-zero are off). C code built with
/// `-ffast-math` may have turned them on; then the arithmetic would not be exact, so workers check before they start.
pub fn denormals_are_kept() -> bool {
    // The smallest normal number halved is denormal; reading it back must give it, and doubling must restore it.
    let normal = std::hint::black_box(f32::MIN_POSITIVE);
    let denormal = std::hint::black_box(normal * 0.5);
    denormal.to_bits() == 0x0040_0000
        && std::hint::black_box(denormal + denormal).to_bits() == normal.to_bits()
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_thread_keeps_denormals() {
        assert!(super::denormals_are_kept());
    }
}
