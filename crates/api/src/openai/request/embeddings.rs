//! `/v1/embeddings`.

use super::{Fault, Fields, fields};
use crate::ports::Input;
use serde_json::Value;

const INPUTS_MAX: usize = 256;

/// A parsed request for embeddings.
#[derive(Clone, Debug)]
pub struct EmbeddingsRequest {
    /// Model name or id.
    pub model: String,
    /// The texts.
    pub inputs: Vec<Input>,
    /// Whether vectors are sent as base64 of little-endian f32.
    pub base64: bool,
    /// Elements that the client expects.
    pub dimensions: Option<u64>,
}

impl EmbeddingsRequest {
    /// Reads a request body as the server does, for whoever checks an answer later.
    ///
    /// # Errors
    /// The server's words for what is wrong.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        Self::parse(body).map_err(|fault| fault.message)
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, Fault> {
        let object = fields::object(body)?;
        let fields = Fields(&object);
        let wrong = || {
            let message =
                format!("`input` must be a string, an array of token ids, or 1 to {INPUTS_MAX} of either");
            Fault::invalid("input", message)
        };
        let ids = |v: &Value| -> Option<Input> {
            let list = v.as_array()?.iter().map(|v| v.as_u64()?.try_into().ok());
            list.collect::<Option<Vec<u32>>>().map(Input::Tokens)
        };
        let inputs = match fields.get("input").ok_or_else(|| Fault::missing("input"))? {
            Value::String(s) => vec![Input::Text(s.clone())],
            Value::Array(list) if list.first().is_some_and(Value::is_u64) => {
                vec![ids(&Value::Array(list.clone())).ok_or_else(wrong)?]
            }
            Value::Array(list) if !list.is_empty() && list.len() <= INPUTS_MAX => list
                .iter()
                .map(|v| match v {
                    Value::String(s) => Some(Input::Text(s.clone())),
                    other => ids(other),
                })
                .collect::<Option<Vec<_>>>()
                .ok_or_else(wrong)?,
            _ => return Err(wrong()),
        };
        let base64 = match fields.string("encoding_format")?.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => {
                return Err(Fault::invalid("encoding_format", "`encoding_format` must be float or base64"));
            }
        };
        let dimensions = fields.integer("dimensions", 1, 1 << 20)?;
        Ok(Self { model: fields.model()?, inputs, base64, dimensions })
    }
}
