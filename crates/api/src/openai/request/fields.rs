//! What the endpoints have in common.

use super::Fault;
use axum::http::StatusCode;
use serde_json::{Map, Value};
use types::Sampling;

const STOP_MAX: usize = 4;
const BIAS_MAX: usize = 1024;
/// Most answers to one request.
const N_MAX: u64 = 8;
/// Most of the likeliest tokens at one place.
pub(super) const TOP_LOGPROBS_MAX: u64 = 20;

/// The JSON object of a body.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, Fault> {
    let bad = |message: String| Fault::new(StatusCode::BAD_REQUEST, "invalid_json", message);
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(bad("the body must be a JSON object".into())),
        Err(e) => Err(bad(format!("the body is not JSON: {e}"))),
    }
}

/// Typed access to an object; JSON null counts as absent.
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|v| !v.is_null())
    }

    pub(super) fn string(&self, name: &str) -> Result<Option<String>, Fault> {
        let wrong = || Fault::invalid(name, format!("`{name}` must be a string"));
        self.get(name).map(|v| v.as_str().map(str::to_owned).ok_or_else(wrong)).transpose()
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, Fault> {
        let wrong = || Fault::invalid(name, format!("`{name}` must be true or false"));
        self.get(name).map(|v| v.as_bool().ok_or_else(wrong)).transpose()
    }

    pub(super) fn integer(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Fault> {
        let wrong = || Fault::invalid(name, format!("`{name}` must be an integer from {min} to {max}"));
        self.get(name).map(|v| v.as_u64().filter(|n| (min..=max).contains(n)).ok_or_else(wrong)).transpose()
    }

    fn float(&self, name: &str, default: f32) -> Result<f32, Fault> {
        let wrong = || Fault::invalid(name, format!("`{name}` must be a number"));
        self.get(name).map_or(Ok(default), |v| v.as_f64().map(|x| x as f32).ok_or_else(wrong))
    }

    /// The model's name.
    pub(super) fn model(&self) -> Result<String, Fault> {
        self.string("model")?.ok_or_else(|| Fault::missing("model"))
    }

    /// Number of answers.
    pub(super) fn n(&self) -> Result<u32, Fault> {
        Ok(self.integer("n", 1, N_MAX)?.unwrap_or(1) as u32)
    }

    /// Refuses fields that would change the answer, given with values that mean more than "not used".
    pub(super) fn refuse(&self, unsupported: &[(&str, &[&str])]) -> Result<(), Fault> {
        for (name, unused) in unsupported {
            if let Some(v) = self.get(name)
                && !unused.contains(&v.to_string().as_str())
            {
                return Err(Fault::invalid(name, format!("`{name}` is not supported by this server")));
            }
        }
        Ok(())
    }

    pub(super) fn include_usage(&self) -> bool {
        let options = self.get("stream_options").and_then(Value::as_object);
        options.and_then(|o| o.get("include_usage")).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Sampling parameters; the seed is 0 when none is given.
    pub(super) fn sampling(&self) -> Result<Sampling, Fault> {
        let seed = match self.get("seed") {
            None => 0,
            // OpenAI's seed is a signed 64-bit integer.
            Some(v) => v
                .as_u64()
                .or(v.as_i64().map(|n| n as u64))
                .ok_or_else(|| Fault::invalid("seed", "`seed` must be a 64-bit integer"))?,
        };
        let sampling = Sampling {
            temperature: self.float("temperature", 1.0)?,
            top_p: self.float("top_p", 1.0)?,
            min_p: self.float("min_p", 0.0)?,
            top_k: self.integer("top_k", 0, u64::from(u32::MAX))?.unwrap_or(0) as u32,
            presence_penalty: self.float("presence_penalty", 0.0)?,
            frequency_penalty: self.float("frequency_penalty", 0.0)?,
            seed,
        };
        match sampling.validate() {
            Ok(()) => Ok(sampling),
            Err(types::TypesError::BadSampling { name, expected }) => {
                Err(Fault::invalid(name, format!("`{name}` must be {expected}")))
            }
            Err(e) => Err(Fault::invalid("temperature", e.to_string())),
        }
    }

    pub(super) fn stop(&self) -> Result<Vec<String>, Fault> {
        let wrong = || {
            Fault::invalid("stop", format!("`stop` must be a string or up to {STOP_MAX} strings, none empty"))
        };
        let list = match self.get("stop") {
            None => return Ok(vec![]),
            Some(Value::String(s)) => vec![s.clone()],
            Some(Value::Array(a)) => a
                .iter()
                .map(|v| v.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect::<Result<Vec<_>, _>>()?,
            Some(_) => return Err(wrong()),
        };
        if list.len() > STOP_MAX || list.iter().any(String::is_empty) { Err(wrong()) } else { Ok(list) }
    }

    /// `logit_bias`: token id to bias, sorted by id.
    pub(super) fn logit_bias(&self) -> Result<Vec<(u32, f32)>, Fault> {
        let wrong = || {
            let message =
                format!("`logit_bias` must map up to {BIAS_MAX} token ids to numbers from -100 to 100");
            Fault::invalid("logit_bias", message)
        };
        let Some(value) = self.get("logit_bias") else { return Ok(vec![]) };
        let map = value.as_object().filter(|m| m.len() <= BIAS_MAX).ok_or_else(wrong)?;
        let mut list = map
            .iter()
            .map(|(id, bias)| {
                let bias = bias.as_f64().filter(|b| (-100.0..=100.0).contains(b))?;
                Some((id.parse().ok()?, bias as f32))
            })
            .collect::<Option<Vec<(u32, f32)>>>()
            .ok_or_else(wrong)?;
        list.sort_unstable_by_key(|(id, _)| *id);
        Ok(list)
    }
}
