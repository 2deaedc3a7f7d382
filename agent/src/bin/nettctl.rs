//! The operators' command line; see `nett_agent::ctl`.

fn main() -> std::process::ExitCode {
    nett_agent::ctl::main()
}
