use super::{
    error::Fault,
    request::{EmbeddingsRequest, Endpoint, GenerateRequest},
};
use axum::http::StatusCode;
use serde_json::Value;

/// What whoever passes a request on needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Model name or id.
    pub model: String,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Bound on generated tokens of each answer; the model's context when absent, and nothing is generated when it is zero.
    pub max_tokens: Option<u32>,
    /// Number of answers.
    pub answers: u32,
}

/// A request that no server of this kind can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(Fault);

impl Invalid {
    /// HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// `{"error": {...}}` in OpenAI's shape.
    pub fn body(&self) -> Value {
        self.0.body()
    }
}

impl Outline {
    /// Reads a request for `path` as a node does, up to what only the model can tell.
    ///
    /// # Errors
    /// [`Invalid`] with the words that a node would have.
    pub fn read(path: &str, body: &[u8]) -> Result<Self, Invalid> {
        let endpoint = match path {
            "/v1/chat/completions" => Endpoint::Chat,
            "/v1/completions" => Endpoint::Completions,
            "/v1/responses" => Endpoint::Responses,
            "/v1/embeddings" => {
                let asked = EmbeddingsRequest::parse(body).map_err(Invalid)?;
                return Ok(Self { model: asked.model, stream: false, max_tokens: Some(0), answers: 1 });
            }
            _ => return Err(Invalid(Fault::new(StatusCode::NOT_FOUND, "not_found", "no such path"))),
        };
        let asked = GenerateRequest::parse(endpoint, body).map_err(Invalid)?;
        let job = asked.job;
        Ok(Self { model: job.model, stream: asked.stream, max_tokens: job.max_tokens, answers: job.n })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_outline_has_what_decides_the_price() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true,"max_tokens":7,"n":2}"#;
        let outline = Outline::read("/v1/chat/completions", body).unwrap();
        let expected = Outline { model: "m".into(), stream: true, max_tokens: Some(7), answers: 2 };
        assert_eq!(outline, expected);
        let body = br#"{"model":"m","input":"Hi"}"#;
        assert_eq!(Outline::read("/v1/embeddings", body).unwrap().max_tokens, Some(0));
        assert_eq!(Outline::read("/v1/responses", body).unwrap().max_tokens, None);
        let wrong = Outline::read("/v1/completions", br#"{"model":"m"}"#).unwrap_err();
        assert_eq!((wrong.status().as_u16(), &wrong.body()["error"]["param"]), (400, &"prompt".into()));
        assert_eq!(Outline::read("/v1/other", body).unwrap_err().status().as_u16(), 404);
    }
}
