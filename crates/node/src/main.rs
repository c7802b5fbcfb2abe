//! `og`: one program for the open network of verifiable AI inference.
//!
//! This crate composes the others; it decides nothing that a test of another crate should decide.

mod audit_account;
mod auditor;
mod bench;
mod chain_port;
mod chain_proof;
mod cli;
mod commands;
mod config;
mod court;
mod devnet;
mod files;
mod genesis;
mod inference;
mod lane;
mod log_server;
mod network_file;
mod node;
mod output;
mod own_chain;
mod payments;
mod proxy;
mod receipt_log;
mod replay;
mod sync;
mod trust_rules;
mod validator;
mod validator_commands;

use clap::Parser as _;
use std::{io::IsTerminal as _, process::ExitCode};
use tracing_subscriber::EnvFilter;

/// Exit code for a proof or answer that was checked and refused.
const REFUSED: u8 = 1;
/// Exit code for everything else that goes wrong.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let cli = match config::apply(cli::Cli::parse()) {
        Ok(cli) => cli,
        Err(e) => return failed(&e),
    };
    let default = if cli.verbose { "info,commonware=warn" } else { "warn,commonware=error" };
    let filter = EnvFilter::try_from_env("OG_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&e.into()),
    };
    let code = match runtime.block_on(commands::run(cli)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(REFUSED),
        Err(e) => failed(&e),
    };
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    code
}

fn failed(e: &anyhow::Error) -> ExitCode {
    eprintln!("og: {e:#}");
    ExitCode::from(FAILED)
}
