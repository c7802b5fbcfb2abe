use crate::tokenizer::TextDecoder;

/// Text with stop strings: what could still become a stop string is held back.
pub(super) struct StoppableText<'m> {
    decoder: TextDecoder<'m>,
    stop: Vec<String>,
    held: String,
    emitted: String,
}

impl<'m> StoppableText<'m> {
    pub(super) fn new(decoder: TextDecoder<'m>, stop: Vec<String>) -> Self {
        Self { decoder, stop, held: String::new(), emitted: String::new() }
    }

    /// All text that was given out.
    pub(super) fn emitted(&self) -> &str {
        &self.emitted
    }

    /// Text that is now certain, and whether a stop string came up.
    pub(super) fn push(&mut self, token: u32) -> (String, bool) {
        let text = self.decoder.push(token);
        self.held.push_str(&text);
        if let Some(at) = self.stop.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            return (self.release(self.held.len()), true);
        }
        // The longest end of the text that begins some stop string must wait.
        let keep = self
            .held
            .char_indices()
            .map(|(i, _)| i)
            .find(|i| self.stop.iter().any(|s| s.starts_with(&self.held[*i..])))
            .unwrap_or(self.held.len());
        (self.release(keep), false)
    }

    pub(super) fn finish(&mut self) -> String {
        let rest = self.decoder.finish();
        self.held.push_str(&rest);
        self.release(self.held.len())
    }

    fn release(&mut self, to: usize) -> String {
        let text: String = self.held.drain(..to).collect();
        self.emitted.push_str(&text);
        text
    }
}
