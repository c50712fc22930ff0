//! `zectre completion`

use crate::{
    args::Args,
    output::{Output, Shown},
};
use clap::CommandFactory;
use clap_complete::Shell;

pub(crate) fn run(shell: Shell, output: Output) -> Shown {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "zectre", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let value = serde_json::json!({"shell": shell.to_string(), "script": script});
    output.value(&value, |_| output.data(script.trim_end()))
}
