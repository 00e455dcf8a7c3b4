//! `loam farm`: for farmers.

use serde::Serialize;

use crate::{args::FarmCommand, config::Config, output::Output, session::Session};

#[derive(Serialize)]
struct Farm {
    farm: u64,
    name: String,
    twin: u64,
}

pub async fn run(command: FarmCommand, config: &Config, output: Output) -> anyhow::Result<()> {
    let session = Session::open(config)?;
    match command {
        FarmCommand::Create { name } => {
            let twin = session.twin().await?;
            let (farm, _) = session.writer.create_farm(&name).await?;
            let farm = Farm {
                farm: farm.0,
                name,
                twin: twin.0,
            };
            output.record(&farm, |farm| {
                vec![
                    ("farm", farm.farm.to_string()),
                    ("name", farm.name.clone()),
                    ("twin", farm.twin.to_string()),
                ]
            })
        }
    }
}
