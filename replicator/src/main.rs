//! The `replicator` command. Everything it does is in the library.

fn main() -> std::process::ExitCode {
    replicator::cli::main()
}
