#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn parse(chunks: &[&str], calls_max: usize) -> Vec<Piece> {
    let mut parser = ToolParser::new(vec!["weather".into(), "time".into()], calls_max);
    let found: Vec<_> = chunks.iter().flat_map(|c| parser.push(c)).collect();
    let mut all = Vec::new();
    for piece in found.into_iter().chain(parser.finish()) {
        append(&mut all, piece);
    }
    all
}

fn whole(text: &str) -> Vec<Piece> {
    parse(&[text], 9)
}

fn text(s: &str) -> Piece {
    Piece::Content(s.into())
}

fn call(index: usize, name: &str, text: &str) -> [Piece; 2] {
    [Piece::Call { index, name: name.into() }, Piece::Arguments { index, text: text.into() }]
}

#[test]
fn the_three_spellings_are_understood() {
    let both = [call(0, "weather", r#"{"city": "Bern }\" ]"}"#), call(1, "time", "{}")].concat();
    for said in [
        r#"<tool_call>{"name": "weather", "arguments": {"city": "Bern }\" ]"}}</tool_call><tool_call>{"name": "time", "arguments": {}}</tool_call>"#,
        "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern }\\\" ]\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"time\"}\n</tool_call>\n",
        r#"{"name": "weather", "parameters": {"city": "Bern }\" ]"}}; {"name": "time", "parameters": {}}"#,
        r#"<|python_tag|>{"type": "function", "name": "weather", "parameters": {"city": "Bern }\" ]"}};{"name": "time", "parameters": {}}"#,
        r#"[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Bern }\" ]"}, "id": "abc"}, {"name": "time", "arguments": {}}]"#,
    ] {
        assert_eq!(whole(said), both, "{said}");
    }
    assert_eq!(whole("\n {\"name\": \"time\", \"parameters\": {}}"), call(0, "time", "{}"));
    // A call that stops in the middle keeps what there is of it.
    assert_eq!(whole(r#"<tool_call>{"name": "weather", "arguments": {"ci"#), call(0, "weather", r#"{"ci"#));
}

#[test]
fn names_may_come_last_and_arguments_may_be_text() {
    for said in [
        r#"<tool_call>{"arguments": {"a":1}, "name": "time"}</tool_call>"#,
        r#"<tool_call>{"name": "time", "arguments": "{\"a\":1}"}</tool_call>"#,
    ] {
        assert_eq!(whole(said), call(0, "time", r#"{"a":1}"#), "{said}");
    }
    assert_eq!(whole(r#"{"name": "time", "arguments": null}"#), call(0, "time", "{}"));
}

#[test]
fn text_around_and_behind_calls_is_kept() {
    let one = "<tool_call>{\"name\": \"time\", \"arguments\": {}}";
    let calls = |n: usize| (0..n).flat_map(|i| call(i, "time", "{}")).collect::<Vec<_>>();
    let said = format!("Let me see. {one}</tool_call>\n\nDone.");
    assert_eq!(whole(&said), [vec![text("Let me see. ")], calls(1), vec![text("\n\nDone.")]].concat());
    // The end of a call was forgotten.
    assert_eq!(whole(&format!("{one}\n42.")), [calls(1), vec![text("\n42.")]].concat());
    assert_eq!(whole(&format!("{one}\n{one}")), calls(2));
    let said = r#"{"name": "time", "parameters": {}} and more"#;
    assert_eq!(whole(said), [calls(1), vec![text(" and more")]].concat());
    let said = format!("<tool_call>{one}</tool_call>");
    assert_eq!(whole(&said), [vec![text("<tool_call>")], calls(1)].concat());
    let two = format!("{one}</tool_call>{one}</tool_call>");
    assert_eq!(parse(&[&two], 1), [calls(1), vec![text(&format!("{one}</tool_call>"))]].concat());
}

#[test]
fn what_is_no_call_is_passed_on_unchanged() {
    for said in [
        "",
        "   ",
        "Hello <tool",
        "a < b, [TOOL_CALL",
        r#"<tool_call>{"name": "unknown", "arguments": {}}</tool_call>"#,
        r#"{"name": "Bob", "parameters": {"age": 7}}"#,
        r#"{"name": "weather", "city": "Bern"}"#,
        r#" {"answer": 42}"#,
        "<tool_call>weather</tool_call>",
        "<|python_tag|>print(1)",
        "[TOOL_CALLS]weather",
        r#"Text first {"name": "weather", "parameters": {}}"#,
        r#"{"arguments": {"a": 1}, "name": "nobody"}"#,
        r#"{"arguments": {"a": 1}, "na"#,
        "{\"na",
    ] {
        let expected: Vec<_> = (!said.is_empty()).then(|| text(said)).into_iter().collect();
        assert_eq!(whole(said), expected, "{said}");
    }
    let long = format!("<tool_call>{{\"id\": \"{}\", \"name\": \"time\"}}", "x".repeat(3000));
    assert_eq!(whole(&long), [text(&long)]);
}

/// Texts that are full of what the parser looks for.
fn tricky() -> impl Strategy<Value = String> {
    let parts = [
        "<tool_call>",
        "</tool_call>",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "[",
        "]",
        "{",
        "}",
        ",",
        ";",
        ":",
        " ",
        "\n",
        "\"name\"",
        "\"weather\"",
        "\"arguments\"",
        "\"parameters\"",
        "\"id\"",
        "\"",
        "\\",
        "null",
        "1",
        "é",
        "text",
        "<",
        "{\"name\": \"time\", ",
        "\"arguments\": {\"a\": \"b\"}}",
        "{\"arguments\": {\"x\": [1]}, ",
        "\"name\": \"weather\"}",
    ];
    prop::collection::vec(prop::sample::select(parts.to_vec()), 0..24).prop_map(|v| v.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_cuts_do_not_matter(said in tricky(), cuts in prop::collection::vec(0usize..400, 0..8)) {
        let mut cuts: Vec<_> = cuts.into_iter().filter(|c| said.is_char_boundary(*c)).chain([0, said.len()]).collect();
        cuts.sort_unstable();
        let chunks: Vec<_> = cuts.windows(2).map(|w| &said[w[0]..w[1]]).collect();
        prop_assert_eq!(parse(&chunks, 9), whole(&said));
    }

    #[test]
    fn without_known_names_all_is_text(said in tricky()) {
        let mut parser = ToolParser::new(vec![], 9);
        let mut pieces = parser.push(&said);
        pieces.extend(parser.finish());
        let passed: String = pieces.iter().map(|p| match p { Piece::Content(t) => t.as_str(), _ => "CALL" }).collect();
        prop_assert_eq!(passed, said);
    }
}
