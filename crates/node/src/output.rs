//! Standard output as pipes expect it: when the reader has left (`og … | head`), the program ends quietly.

use std::{
    fmt::Arguments,
    io::{ErrorKind, Write as _},
};

/// Writes to standard output and flushes it, so that streamed text appears at once.
pub(crate) fn write(text: Arguments<'_>) {
    let mut out = std::io::stdout();
    if let Err(e) = out.write_fmt(text).and_then(|()| out.flush()) {
        if e.kind() != ErrorKind::BrokenPipe {
            eprintln!("og: cannot write to standard output: {e}");
        }
        std::process::exit(i32::from(e.kind() != ErrorKind::BrokenPipe));
    }
}

/// `print!` that survives a closed pipe.
macro_rules! out {
    ($($part:tt)*) => { $crate::output::write(format_args!($($part)*)) };
}

/// `println!` that survives a closed pipe.
macro_rules! outln {
    () => { $crate::output::write(format_args!("\n")) };
    ($($part:tt)+) => { $crate::output::write(format_args!("{}\n", format_args!($($part)+))) };
}

pub(crate) use {out, outln};
