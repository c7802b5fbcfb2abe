//! Server-sent events as a node sends them: blocks that end in an empty line.

use serde_json::Value;

/// Longest event in bytes.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// What an event means for the proxy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text on the way: may be passed on at once.
    Delta,
    /// The end of the answer begins: withheld until the receipt was checked.
    End,
    /// The node's own error.
    Error,
    /// The seal, with its JSON.
    Seal(String),
    /// Not what a node may send.
    Bad,
}

/// Cuts a byte stream into events.
#[derive(Debug, Default)]
pub(crate) struct Splitter(Vec<u8>);

impl Splitter {
    /// Takes bytes and returns the whole events in them, each with its empty line; `None` when one gets too long.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
        self.0.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut from = 0;
        while let Some(at) = self.0[from..].windows(2).position(|w| w == b"\n\n") {
            events.push(self.0[from..from + at + 2].to_vec());
            from += at + 2;
        }
        self.0.drain(..from);
        (self.0.len() <= EVENT_BYTES_MAX).then_some(events)
    }

    /// True when nothing is left over.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Classifies one event.
pub(crate) fn classify(event: &[u8]) -> Kind {
    let Ok(text) = std::str::from_utf8(event) else { return Kind::Bad };
    // Clients take a carriage return for the end of a line (WHATWG, "Server-sent events"): they would see other events than are checked here.
    if text.contains('\r') {
        return Kind::Bad;
    }
    let text = text.trim_end_matches('\n');
    if let Some(seal) = text.strip_prefix(": og-seal ") {
        return Kind::Seal(seal.into());
    }
    if let Some((name, data)) = text.strip_prefix("event: response.").and_then(|t| t.split_once("\ndata: ")) {
        // Named events of `/v1/responses`: the last one repeats the whole answer.
        let sound =
            serde_json::from_str::<Value>(data).is_ok_and(|e| e["type"] == format!("response.{name}"));
        return match name {
            _ if !sound => Kind::Bad,
            "completed" | "incomplete" | "failed" => Kind::End,
            _ => Kind::Delta,
        };
    }
    let Some(data) = text.strip_prefix("data: ") else { return Kind::Bad };
    if data == "[DONE]" {
        return Kind::End;
    }
    let Ok(chunk) = serde_json::from_str::<Value>(data) else { return Kind::Bad };
    if !chunk["error"].is_null() {
        return Kind::Error;
    }
    match chunk["choices"].as_array().map(Vec::as_slice) {
        Some([choice]) if choice["finish_reason"].is_null() => Kind::Delta,
        _ => Kind::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_wherever_the_bytes_break() {
        let all = b"data: {\"choices\":[{\"finish_reason\":null}]}\n\ndata: [DONE]\n\n: og-seal {}\n\n";
        for cut in 0..all.len() {
            let mut splitter = Splitter::default();
            let mut events = splitter.push(&all[..cut]).unwrap_or_default();
            events.extend(splitter.push(&all[cut..]).unwrap_or_default());
            assert_eq!(events.concat(), all);
            let kinds: Vec<_> = events.iter().map(|e| classify(e)).collect();
            assert_eq!(kinds, [Kind::Delta, Kind::End, Kind::Seal("{}".into())]);
            assert!(splitter.is_empty());
        }
    }

    #[test]
    fn hostile_events_are_bad_or_withheld() {
        assert_eq!(classify(b"\xff\xff\n\n"), Kind::Bad);
        for event in [
            "data: {\"choices\":[{\r\"finish_reason\":null}]}\n\n",
            "data: [DONE]\r\n\n",
            ": og-seal {}\r\n\n",
            "data: {}\r\r\n\n",
        ] {
            assert_eq!(classify(event.as_bytes()), Kind::Bad, "{event:?}");
        }
        assert_eq!(classify(b"event: x\n\n"), Kind::Bad);
        assert_eq!(classify(b"event: response.x\ndata: {\"type\":\"response.y\"}\n\n"), Kind::Bad);
        let event = b"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\"}\n\n";
        assert_eq!(classify(event), Kind::Delta);
        let event = b"event: response.completed\ndata: {\"type\":\"response.completed\"}\n\n";
        assert_eq!(classify(event), Kind::End);
        assert_eq!(classify(b"data: {\n\n"), Kind::Bad);
        assert_eq!(classify(b"data: {}\n\n"), Kind::End);
        assert_eq!(classify(b"data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n"), Kind::End);
        assert_eq!(classify(b"data: {\"error\":{}}\n\n"), Kind::Error);
        assert_eq!(Splitter::default().push(&vec![b'x'; EVENT_BYTES_MAX + 1]), None);
    }
}
