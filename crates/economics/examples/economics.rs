//! Prints the report of the default configuration; a JSON file with another configuration can be named. With `--json`
//! the report is JSON.

use economics::{Config, run};
use std::{env, fs, process::ExitCode};

fn main() -> ExitCode {
    let mut json = false;
    let mut config = Config::default();
    for argument in env::args().skip(1) {
        if argument == "--json" {
            json = true;
            continue;
        }
        let text = match fs::read(&argument) {
            Ok(text) => text,
            Err(e) => return fail(&format!("{argument}: {e}")),
        };
        config = match serde_json::from_slice(&text) {
            Ok(config) => config,
            Err(e) => return fail(&format!("{argument} is not a configuration: {e}")),
        };
    }
    match run(&config) {
        Ok(report) if json => match serde_json::to_string_pretty(&report) {
            Ok(text) => println!("{text}"),
            Err(e) => return fail(&e.to_string()),
        },
        Ok(report) => print!("{report}"),
        Err(e) => return fail(&e.to_string()),
    }
    ExitCode::SUCCESS
}

fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}
