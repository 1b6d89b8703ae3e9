//! What people read: tables, lines, errors.

/// Prints an error with its causes, each on a line of its own.
pub fn error(error: &anyhow::Error) {
    use owo_colors::OwoColorize as _;
    anstream::eprintln!("{} {error}", "error:".red().bold());
    for cause in error.chain().skip(1) {
        anstream::eprintln!("  because: {cause}");
    }
}
