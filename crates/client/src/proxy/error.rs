use crate::{ClientError, Refused};
use api::openai::Invalid;
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
    body: Value,
}

impl Fault {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let param = matches!(code, "model_not_found" | "model_ambiguous").then_some("model");
        Self::full(status, code, param, message.into())
    }

    fn full(status: StatusCode, code: &str, param: Option<&str>, message: String) -> Self {
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            s if s.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let error = json!({"message": message, "type": kind, "param": param, "code": code});
        Self { status, body: json!({"error": error}) }
    }

    /// The request itself is wrong.
    pub(super) fn invalid(e: Invalid) -> Self {
        Self { status: e.status(), body: e.body() }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn body(&self) -> Value {
        self.body.clone()
    }

    /// When all nodes that had an opinion about the request say the same, it is probably to blame: one status, code and parameter, all of known
    /// form. The words are theirs and marked as such. Who wants to be paid, or could not be reached, said nothing about the request.
    fn refused(refused: &Refused) -> Self {
        let message = refused.to_string();
        let mut opinions = refused.refusals.iter().filter(|r| r.status != 402);
        let first = opinions
            .next()
            .filter(|first| opinions.all(|r| (r.status, &r.code) == (first.status, &first.code)));
        let is_name = |s: &&str| {
            let known = |c: u8| c.is_ascii_alphanumeric() || b"_.[]-".contains(&c);
            s.len() <= 64 && s.bytes().all(known)
        };
        let status = first.map(|r| r.status).filter(|s| [400, 413, 422].contains(s));
        match (first, status.and_then(|s| StatusCode::from_u16(s).ok())) {
            (Some(first), Some(status)) => {
                let code = first.code.as_deref().filter(is_name).unwrap_or("refused_by_nodes");
                Self::full(status, code, first.param.as_deref().filter(is_name), message)
            }
            _ => Self::full(StatusCode::BAD_GATEWAY, "refused_by_nodes", None, message),
        }
    }
}

impl From<ClientError> for Fault {
    fn from(e: ClientError) -> Self {
        let (status, code) = match &e {
            ClientError::AllRefused(refused) => return Self::refused(refused),
            ClientError::NoNode { .. } => (StatusCode::NOT_FOUND, "model_not_found"),
            ClientError::Ambiguous(_) => (StatusCode::BAD_REQUEST, "model_ambiguous"),
            ClientError::TooExpensive(_) => (StatusCode::PAYMENT_REQUIRED, "price_ceiling"),
            ClientError::DayLimit { .. } => (StatusCode::PAYMENT_REQUIRED, "day_limit"),
            ClientError::Busy => (StatusCode::TOO_MANY_REQUESTS, "queue_full"),
            ClientError::UnknownReceipt(_) => (StatusCode::NOT_FOUND, "not_found"),
            ClientError::NotSettled(_) => (StatusCode::TOO_EARLY, "not_settled_yet"),
            ClientError::Unpaid => (StatusCode::PAYMENT_REQUIRED, "payment_required"),
            ClientError::NotFinalised => (StatusCode::TOO_EARLY, "not_finalised_yet"),
            ClientError::TooFewNodes { .. } => (StatusCode::BAD_REQUEST, "assurance_unavailable"),
            ClientError::NoMajority { .. } => (StatusCode::BAD_GATEWAY, "replicas_disagree"),
            ClientError::Verification { .. } => (StatusCode::BAD_GATEWAY, "verification_failed"),
            ClientError::Stale { .. } => (StatusCode::SERVICE_UNAVAILABLE, "ledger_stale"),
            ClientError::Disbelieved { .. } => (StatusCode::BAD_GATEWAY, "ledger_not_proved"),
            ClientError::OtherNetwork { .. } => (StatusCode::BAD_GATEWAY, "other_network"),
            ClientError::File { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
            _ => (StatusCode::BAD_GATEWAY, "upstream_error"),
        };
        Self::new(status, code, e.to_string())
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
