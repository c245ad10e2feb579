//! The `quorate` command: the server, a demonstration, and every client verb.
//!
//! Invariants:
//! - The exit code says how it ended, for scripts: see [`failure`].
//! - Results go to stdout, everything else (errors, progress, logs) to stderr.

mod args;
mod commands;
mod connection;
mod failure;
mod input;
mod output;
mod pages;
mod picture;
mod render;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::failure::Failure;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with code 0, errors to stderr with code 2.
            let code = error.exit_code();
            let _ = error.print();
            return ExitCode::from(u8::try_from(code).unwrap_or(failure::FAILED));
        }
    };
    let format = cli.global.output;
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure, format);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Says on stderr what went wrong.
fn report(failure: &Failure, format: output::Format) {
    if failure.is_silent() {
        return;
    }
    match format {
        output::Format::Table => eprintln!("quorate: {failure}"),
        output::Format::Json => {
            let error = serde_json::json!({
                "error": failure.to_string(), "kind": failure.kind(), "exit_code": failure.exit_code(),
            });
            eprintln!("{error}");
        }
    }
}
