//! `loam`: the command line of tenants and farmers.

mod args;
mod authority;
mod cancel;
mod config;
mod console;
mod deploy;
mod farm;
mod key;
mod list;
mod node;
mod output;
mod pin;
mod session;
mod status;
mod watch;

use std::process::ExitCode;

use args::{Args, Command, VERSION};
use clap::Parser;
use config::Config;
use output::Output;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let output = Output { json: args.json };
    match run(args, output).await {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            ExitCode::FAILURE
        }
    }
}

fn version(output: Output) -> anyhow::Result<()> {
    let version = serde_json::json!({ "version": VERSION });
    output.record(&version, |_| vec![("version", VERSION.to_owned())])
}

async fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let config = Config::locate(args.config, args.key);
    let done = match args.command {
        Command::Key(command) => key::run(command, &config, output).await,
        Command::Farm(command) => farm::run(command, &config, output).await,
        Command::Node(command) => node::run(command, &config, output).await,
        Command::Deploy(deploy) => return deploy::deploy(deploy, &config, output).await,
        Command::Update(update) => return deploy::update(update, &config, output).await,
        Command::Status { contract } => status::run(contract, &config, output).await,
        Command::List => list::run(&config, output).await,
        Command::Version => version(output),
        Command::Cancel(cancel) => cancel::run(cancel, &config, output).await,
        Command::Logs(logs) => console::logs(logs, &config, output).await,
        Command::Console(console) => console::console(console, &config, output).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}
