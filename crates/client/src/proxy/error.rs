use crate::ClientError;
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// An error in OpenAI's shape.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    status: StatusCode,
    code: &'static str,
    message: String,
    param: Option<&'static str>,
}

impl Fault {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let param = (code == "model_not_found").then_some("model");
        Self { status, code, message: message.into(), param }
    }

    /// A field of the request is missing or of the wrong kind.
    pub(super) fn field(code: &'static str, param: &'static str, message: impl Into<String>) -> Self {
        Self { param: Some(param), ..Self::new(StatusCode::BAD_REQUEST, code, message) }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            s if s.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

impl From<ClientError> for Fault {
    fn from(e: ClientError) -> Self {
        let (status, code) = match &e {
            ClientError::NoNode { .. } => (StatusCode::NOT_FOUND, "model_not_found"),
            ClientError::Busy => (StatusCode::TOO_MANY_REQUESTS, "queue_full"),
            ClientError::UnknownReceipt(_) => (StatusCode::NOT_FOUND, "not_found"),
            ClientError::NotSettled(_) => (StatusCode::TOO_EARLY, "not_settled_yet"),
            ClientError::Unpaid => (StatusCode::PAYMENT_REQUIRED, "payment_required"),
            ClientError::NotFinalised => (StatusCode::TOO_EARLY, "not_finalised_yet"),
            ClientError::TooFewNodes { .. } => (StatusCode::BAD_REQUEST, "assurance_unavailable"),
            ClientError::NoMajority { .. } => (StatusCode::BAD_GATEWAY, "replicas_disagree"),
            ClientError::Verification { .. } => (StatusCode::BAD_GATEWAY, "verification_failed"),
            ClientError::File { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
            _ => (StatusCode::BAD_GATEWAY, "upstream_error"),
        };
        Self::new(status, code, e.to_string())
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
