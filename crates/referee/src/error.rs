use thiserror::Error;
use types::TypesError;

/// Why a move, a game or a step cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RefereeError {
    /// Bytes, a signature or a Merkle path are wrong.
    #[error(transparent)]
    Types(#[from] TypesError),
    /// This game cannot be played about this claim.
    #[error("no game about this claim: {0}")]
    NotPlayable(&'static str),
    /// The move does not fit the state of the game.
    #[error("not a move here: {0}")]
    BadMove(&'static str),
    /// The witness lacks something that the element is computed from.
    #[error("the witness does not open {0}")]
    Missing(String),
    /// The manifest does not describe a decoder that the referee knows.
    #[error("the manifest is not one of a decoder: {0}")]
    Shape(String),
}
