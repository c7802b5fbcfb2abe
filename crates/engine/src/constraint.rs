use crate::EngineError;

/// A grammar that an answer must follow, at one point of the answer.
#[derive(Clone, Debug)]
pub struct Constraint {
    never: std::convert::Infallible,
}

impl Constraint {
    /// Whether each token of the vocabulary may come next, as bits: token `t` is bit `t % 32` of word `t / 32`.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] when the grammar needs more work than is allowed.
    pub fn mask(&mut self) -> Result<Vec<u32>, EngineError> {
        match self.never {}
    }

    /// Moves on over `token`.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] when the grammar does not allow the token.
    pub fn accept(&mut self, _token: u32) -> Result<(), EngineError> {
        match self.never {}
    }
}
