//! The rules of `ARCHITECTURE.md` that a machine can check.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Which crate of the workspace may depend on which. Anything else is a breach.
const EDGES: [(&str, &[&str]); 18] = [
    ("types", &[]),
    ("kernels", &[]),
    ("economics", &[]),
    ("verify", &["types"]),
    ("referee", &["types", "kernels"]),
    ("engine", &["types", "kernels", "referee"]),
    ("signed", &["types", "verify"]),
    ("audited", &["types", "verify"]),
    ("replicated", &["types", "verify"]),
    ("ledger", &["types", "verify", "referee"]),
    ("consensus", &["types", "verify", "ledger"]),
    ("api", &["types"]),
    ("wallet", &["types"]),
    ("client", &["types", "verify", "api", "signed", "audited", "replicated", "wallet"]),
    (
        "node",
        &[
            "types",
            "verify",
            "kernels",
            "referee",
            "engine",
            "signed",
            "audited",
            "ledger",
            "consensus",
            "api",
            "client",
            "wallet",
            "economics",
        ],
    ),
    (
        "sim",
        &[
            "types",
            "verify",
            "kernels",
            "referee",
            "engine",
            "signed",
            "audited",
            "ledger",
            "consensus",
            "api",
            "client",
            "wallet",
        ],
    ),
    ("xtask", &[]),
    ("fuzz", &["types", "verify", "referee", "engine", "ledger", "consensus", "client"]),
];

/// Foreign crates that have one home (tests of the whole cluster aside).
const HOMES: [(&str, &[&str]); 8] = [
    ("commonware-", &["consensus", "sim"]),
    ("revm", &["ledger"]),
    ("redb", &["ledger", "node", "sim", "wallet"]),
    ("jsonrpsee", &["api"]),
    ("blst", &["verify"]),
    ("tokenizers", &["engine"]),
    ("minijinja", &["engine"]),
    ("anyhow", &["node"]),
];

/// Most lines of a Rust source file.
const LINES_MAX: usize = 500;

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Every breach of a rule, in words.
pub(crate) fn check(root: &Path) -> Vec<String> {
    let mut breaches = edges(root);
    let mut files = Vec::new();
    for part in ["crates", "modes", "xtask", "fuzz"] {
        walk(&root.join(part), &mut files);
    }
    for path in files {
        let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        match fs::read_to_string(&path) {
            Ok(text) => source(&shown, &text, &mut breaches),
            Err(e) => breaches.push(format!("{shown}: {e}")),
        }
    }
    breaches
}

fn edges(root: &Path) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output();
    let metadata: Value = match output.map(|o| serde_json::from_slice(&o.stdout)) {
        Ok(Ok(value)) => value,
        other => return vec![format!("cargo metadata failed: {other:?}")],
    };
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let members: BTreeSet<_> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let allowed: BTreeMap<_, _> = EDGES.into_iter().collect();
    let mut breaches = Vec::new();
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(may) = allowed.get(name) else {
            breaches
                .push(format!("{name}: a new crate needs its row in xtask/src/rules.rs and ARCHITECTURE.md"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            if members.contains(other) && !may.contains(&other) {
                breaches.push(format!("{name} may not depend on {other}; see ARCHITECTURE.md"));
            }
            let development = dependency["kind"] == "dev";
            for (foreign, homes) in HOMES {
                let matches = other == foreign || (foreign.ends_with('-') && other.starts_with(foreign));
                if matches && !development && !homes.contains(&name) {
                    breaches.push(format!("{name} may not use {other}; its home is {}", homes.join(", ")));
                }
            }
        }
    }
    breaches
}

fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if entry.file_name() != "target" {
                walk(&path, out);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    out.sort();
}

/// Words that must not be left behind, put together so that this file does not break its own rule.
const LEFTOVERS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];

fn source(shown: &str, text: &str, breaches: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > LINES_MAX {
        breaches.push(format!("{shown}: {lines} lines; split it at {LINES_MAX}"));
    }
    let is_kernel = shown.starts_with("crates/kernels/");
    for (number, line) in text.lines().enumerate() {
        let at = format!("{shown}:{}", number + 1);
        let code = line.split("//").next().unwrap_or_default();
        let keyword = concat!("un", "safe");
        let uses = [format!("{keyword} {{"), format!("{keyword} fn"), format!("{keyword} impl")];
        if !is_kernel && uses.iter().any(|u| code.contains(u.as_str())) {
            breaches.push(format!("{at}: {keyword} code belongs in crates/kernels"));
        }
        if LEFTOVERS.iter().any(|w| line.contains(w)) {
            breaches.push(format!("{at}: a leftover note"));
        }
        if is_kernel && !shown.contains("/tests/") {
            for banned in
                [".mul_add(", ".exp()", ".powf(", ".sin()", ".cos()", "_mm256_rcp", "_mm256_rsqrt", "_fmadd_"]
            {
                if code.contains(banned) && !code.contains(&format!("\"{banned}")) {
                    breaches.push(format!("{at}: `{banned}` gives other bits on other machines"));
                }
            }
        }
        if shown.starts_with("crates/ledger/src") {
            for banned in ["SystemTime", "Instant::now", "f32", "f64", "tokio", "rand::"] {
                if code.contains(banned) {
                    breaches.push(format!("{at}: `{banned}` has no place in the deterministic transition"));
                }
            }
        }
    }
    let library = shown.ends_with("/src/lib.rs");
    if library && !text.trim_start().starts_with("//!") {
        breaches.push(format!("{shown}: a crate says first what problem it solves (//!)"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_rules_hold() {
        let breaches = check(&root());
        assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
    }

    #[test]
    fn breaches_are_found() {
        let found = |shown: &str, text: &str| {
            let mut out = Vec::new();
            source(shown, text, &mut out);
            out.len()
        };
        assert_eq!(found("crates/api/src/x.rs", "fn a() {}"), 0);
        assert_eq!(found("crates/api/src/x.rs", concat!("un", "safe { a() }")), 1);
        assert_eq!(found("crates/kernels/src/x.rs", concat!("un", "safe { a() }")), 0);
        assert_eq!(found("crates/kernels/src/x.rs", "x.mul_add(a, b)"), 1);
        assert_eq!(found("crates/ledger/src/x.rs", "let t = Instant::now();"), 1);
        assert_eq!(found("crates/api/src/x.rs", &"\n".repeat(LINES_MAX + 1)), 1);
        assert_eq!(found("crates/api/src/x.rs", concat!("// TO", "DO: later")), 1);
        assert_eq!(found("crates/api/src/lib.rs", "mod a;"), 1);
    }
}
