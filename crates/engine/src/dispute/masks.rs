use crate::{Constraint, EngineError};

/// What a grammar allows at each place of an answer, a bit a token, lowest bit first.
///
/// # Errors
/// [`EngineError::Grammar`] when it does not allow one of the tokens.
pub fn masks(
    mut constraint: Constraint,
    output: &[u32],
    vocabulary: usize,
) -> Result<Vec<Vec<u8>>, EngineError> {
    let mut masks = Vec::with_capacity(output.len());
    for token in output {
        let words = constraint.mask()?;
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes.resize(vocabulary.div_ceil(8), 0);
        masks.push(bytes);
        constraint.accept(*token)?;
    }
    Ok(masks)
}
