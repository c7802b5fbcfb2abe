//! The program as a person meets it: help, mistakes, exit codes.
#![allow(missing_docs, clippy::unwrap_used)]

use std::process::{Command, Output};

fn og(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_og"))
        .args(args)
        .env_remove("OG_PROXY")
        .env_remove("OG_RPC")
        .env_remove("OG_NETWORK")
        .env_remove("OG_CONFIG")
        .env("COLUMNS", "100")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help() {
    for command in ["", "devnet", "node", "proxy", "chat", "receipt", "verify", "bench", "bench make-gguf"] {
        let args: Vec<_> = command.split_whitespace().chain(["--help"]).collect();
        let output = og(&args);
        assert!(output.status.success());
        let name = if command.is_empty() { "og" } else { command };
        insta::assert_snapshot!(format!("help_{}", name.replace(' ', "_")), text(&output.stdout));
    }
}

#[test]
fn mistakes_say_what_to_do_and_have_exit_codes() {
    let cases: [(&[&str], i32, &str); 7] = [
        (&["verify", "/nonexistent/proof.json"], 2, "cannot read /nonexistent/proof.json"),
        (&["chat", "--proxy", "http://127.0.0.1:1", "Hi"], 2, "start a network with: og devnet"),
        (&["receipt", "get", "0x12"], 2, "invalid value '0x12'"),
        (&["devnet", "--validators", "0"], 2, "0 is not in 1..=32"),
        (
            &[
                "devnet",
                "--model",
                "/nonexistent/model.gguf",
                "--p2p-port",
                "0",
                "--rpc-port",
                "0",
                "--proxy-port",
                "0",
                "--node-port",
                "0",
            ],
            2,
            "/nonexistent/model.gguf",
        ),
        (&["--config", "/nonexistent/og.toml", "chat", "Hi"], 2, "/nonexistent/og.toml"),
        (&["dance"], 2, "unrecognized subcommand"),
    ];
    for (args, code, words) in cases {
        let output = og(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(text(&output.stderr).contains(words), "{args:?}: {}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("panicked"));
    }
}

#[test]
fn make_gguf_overwrites_only_when_told() {
    let dir = std::env::temp_dir().join(format!("og-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("tiny.gguf");
    let make = |seed: &str, more: &[&str]| {
        let out = path.to_str().unwrap();
        let args = ["bench", "make-gguf", "--shape", "tiny", "--seed", seed, "--out", out];
        og(&[&args[..], more].concat())
    };
    let first = make("1", &[]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert!(text(&first.stdout).contains("random-tiny, 20 tensors"));
    let written = std::fs::read(&path).unwrap();
    let refused = make("2", &[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("is already there"), "{}", text(&refused.stderr));
    assert_eq!(std::fs::read(&path).unwrap(), written);
    assert_eq!(make("2", &["--force"]).status.code(), Some(0));
    assert_ne!(std::fs::read(&path).unwrap(), written);
    std::fs::remove_dir_all(&dir).unwrap();
    let lost = make("1", &[]);
    assert_eq!(lost.status.code(), Some(2));
    assert!(text(&lost.stderr).contains("its folder must exist"), "{}", text(&lost.stderr));
}

#[test]
fn what_is_no_proof_is_refused_with_code_1() {
    let dir = std::env::temp_dir().join(format!("og-cli-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for (name, bytes) in [("empty", b"".as_slice()), ("json", b"{}\n"), ("binary", &[0xff; 1000])] {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        let output = og(&["verify", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(text(&output.stdout).contains("The proof does NOT hold."));
        let json = og(&["verify", "--json", path.to_str().unwrap()]);
        let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(report["ok"], false);
        assert_eq!(report["checks"][0]["outcome"], "fail");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn settings_come_from_flags_then_the_file() {
    let path = std::env::temp_dir().join(format!("og-settings-{}.toml", std::process::id()));
    std::fs::write(&path, "proxy = \"http://127.0.0.1:2\"\n").unwrap();
    let config = path.to_str().unwrap();
    let file = og(&["--config", config, "chat", "Hi"]);
    assert!(text(&file.stderr).contains("127.0.0.1:2/"), "{}", text(&file.stderr));
    let flag = og(&["--config", config, "chat", "--proxy", "http://127.0.0.1:3", "Hi"]);
    assert!(text(&flag.stderr).contains("127.0.0.1:3/"), "{}", text(&flag.stderr));
    std::fs::write(&path, "proxi = 1\n").unwrap();
    assert!(text(&og(&["--config", config, "chat", "Hi"]).stderr).contains("unknown field"));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_closed_pipe_ends_the_program_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_og"))
        .args(["verify", "--json", "/dev/null"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
}
