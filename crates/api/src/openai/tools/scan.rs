//! Reads the beginning of a call's JSON object, as far as it is there.

/// How deep in a JSON value a text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Depth {
    open: u32,
    string: bool,
    escaped: bool,
}

impl Depth {
    /// Behind the brace that opens an object.
    pub(super) const INSIDE: Self = Self { open: 1, string: false, escaped: false };

    /// Takes a character; true when it closes the outermost bracket.
    pub(super) fn closes(&mut self, c: char) -> bool {
        if self.string {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => self.string = false,
                _ => {}
            }
            return false;
        }
        match c {
            '"' => self.string = true,
            '{' | '[' => self.open = self.open.saturating_add(1),
            '}' | ']' => {
                self.open = self.open.saturating_sub(1);
                return self.open == 0;
            }
            _ => {}
        }
        false
    }
}

/// What the beginning of an object shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// Nothing yet.
    More,
    /// It is no call.
    No,
    /// A call of this function; the text ends in the brace that opens its arguments.
    Arguments(String),
    /// A call of this function, without arguments; the text ends with the call.
    Nothing(String),
    /// The arguments come before the name, or are no object.
    Late,
}

struct Cursor<'a>(&'a str);

impl Cursor<'_> {
    fn peek(&mut self) -> Option<char> {
        self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
        self.0.chars().next()
    }

    /// The content of a string; `Ok(None)` while it is not whole.
    fn string(&mut self) -> Result<Option<String>, ()> {
        if self.peek() != Some('"') {
            return Err(());
        }
        let mut depth = Depth::INSIDE;
        for (i, c) in self.0.char_indices() {
            depth.closes(c);
            if i > 0 && !depth.string {
                let (text, rest) = self.0.split_at(i + 1);
                self.0 = rest;
                return serde_json::from_str(text).map(Some).map_err(|_| ());
            }
        }
        Ok(None)
    }
}

/// Reads as much as is there.
pub(super) fn scan(text: &str) -> Scan {
    let mut cursor = Cursor(text);
    match cursor.peek() {
        None => return Scan::More,
        Some('{') => cursor.0 = &cursor.0[1..],
        Some(_) => return Scan::No,
    }
    let mut name: Option<String> = None;
    loop {
        match (cursor.peek(), &name) {
            (None, _) => return Scan::More,
            (Some('}'), Some(name)) => return Scan::Nothing(name.clone()),
            (Some('"'), _) => {}
            _ => return Scan::No,
        }
        let key = match cursor.string() {
            Ok(Some(key)) => key,
            Ok(None) => return Scan::More,
            Err(()) => return Scan::No,
        };
        match cursor.peek() {
            None => return Scan::More,
            Some(':') => cursor.0 = &cursor.0[1..],
            Some(_) => return Scan::No,
        }
        let Some(value) = cursor.peek() else { return Scan::More };
        match (key.as_str(), value, &name) {
            ("arguments" | "parameters", '{', Some(name)) => return Scan::Arguments(name.clone()),
            ("arguments" | "parameters", '{' | '"' | 'n', _) => return Scan::Late,
            ("name" | "id" | "type", '"', _) => match cursor.string() {
                Ok(Some(said)) if key == "name" => name = Some(said),
                Ok(Some(_)) => {}
                Ok(None) => return Scan::More,
                Err(()) => return Scan::No,
            },
            _ => return Scan::No,
        }
        match cursor.peek() {
            None => return Scan::More,
            Some(',') => cursor.0 = &cursor.0[1..],
            Some('}') => {}
            Some(_) => return Scan::No,
        }
    }
}
