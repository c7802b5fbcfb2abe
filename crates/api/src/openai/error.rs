use crate::ports::InferenceFault;
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// An error in OpenAI's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) param: Option<String>,
    pub(crate) code: &'static str,
}

impl Fault {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code }
    }

    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> Self {
        let param = Some(param.to_owned());
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), param, code: "invalid_value" }
    }

    pub(crate) fn missing(param: &str) -> Self {
        let message = format!("missing required parameter: `{param}`");
        Self { code: "missing_required_parameter", ..Self::invalid(param, message) }
    }

    /// `{"error": {...}}`.
    pub(crate) fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            s if s.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

impl From<InferenceFault> for Fault {
    fn from(fault: InferenceFault) -> Self {
        let message = fault.to_string();
        let (status, code) = match &fault {
            InferenceFault::ModelNotFound { .. } => (StatusCode::NOT_FOUND, "model_not_found"),
            InferenceFault::ContextLengthExceeded(_) => (StatusCode::BAD_REQUEST, "context_length_exceeded"),
            InferenceFault::InvalidValue { .. } => (StatusCode::BAD_REQUEST, "invalid_value"),
            InferenceFault::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            InferenceFault::Busy(_) => (StatusCode::TOO_MANY_REQUESTS, "queue_full"),
            InferenceFault::AssuranceUnavailable(_) => (StatusCode::BAD_REQUEST, "assurance_unavailable"),
            InferenceFault::PaymentRequired(_) => (StatusCode::PAYMENT_REQUIRED, "payment_required"),
            InferenceFault::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            InferenceFault::Duplicate(_) => (StatusCode::CONFLICT, "duplicate_request"),
            InferenceFault::KeptBack => (StatusCode::TOO_EARLY, "kept_back"),
            InferenceFault::NotWithheld(_) => (StatusCode::NOT_FOUND, "not_found"),
            InferenceFault::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        };
        let param = match fault {
            InferenceFault::ModelNotFound { .. } => Some("model".to_owned()),
            InferenceFault::ContextLengthExceeded(_) => Some("messages".to_owned()),
            InferenceFault::InvalidValue { param, .. } => Some(param.to_owned()),
            _ => None,
        };
        Self { status, message, param, code }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
