//! `eip`: the service, a host's agent and the command line, in one program.

mod args;
mod backends;
mod client;
mod doors;
mod exit;
mod log;
mod sandbox;
mod serve;
mod settings;
mod upkeep;

use clap::Parser as _;

use args::{Args, Command, Output};
use exit::Failure;
use settings::Settings;

/// A request makes a few dozen small allocations, on one thread and freed on another as often as not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() && wants_json() => {
            let said = error.render().to_string();
            let detail = said.trim().trim_start_matches("error: ");
            return Failure::usage(detail, "see eip --help").report(Output::Json);
        }
        Err(error) => error.exit(),
    };
    let output = args.global.output;
    match run(args) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => failure.report(output),
    }
}

/// Whether JSON was asked for in words that could not be understood as a whole.
fn wants_json() -> bool {
    let words: Vec<String> = std::env::args().collect();
    let asked = words
        .windows(2)
        .any(|pair| matches!(pair[0].as_str(), "-o" | "--output") && pair[1] == "json");
    let joined = words.iter().any(|word| matches!(word.as_str(), "-ojson" | "--output=json"));
    asked || joined || std::env::var("EIP_OUTPUT").is_ok_and(|output| output == "json")
}

fn run(args: Args) -> Result<(), Failure> {
    let settings = Settings::load()?;
    match args.command {
        Command::Serve(command) => {
            log::start(command.log_format)?;
            multi_threaded()?.block_on(serve::serve(command, &settings))
        }
        Command::Agent(command) => {
            log::start(command.log_format)?;
            multi_threaded()?.block_on(serve::agent(
                command,
                args.global.ca_file.as_deref(),
                &settings,
            ))
        }
        Command::Backup(command) => {
            single_threaded()?.block_on(upkeep::backup(command, &settings, args.global.output))
        }
        Command::Import(command) => {
            single_threaded()?.block_on(upkeep::import(command, args.global.output))
        }
        // Before any thread: a sandbox moves the whole process into its namespace.
        Command::Sandbox(command) => sandbox::run(command, &settings, &args.global),
        Command::Client(command) => {
            single_threaded()?.block_on(client::run(command, &args.global, &settings))
        }
    }
}

fn multi_threaded() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Failure::other("cannot start a runtime", &error))
}

fn single_threaded() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::other("cannot start a runtime", &error))
}
