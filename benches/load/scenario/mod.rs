//! placeholder
use clap::Args;
#[derive(Args)]
pub struct Cli {}
pub fn main(_: &Cli) -> anyhow::Result<()> {
    Ok(())
}
