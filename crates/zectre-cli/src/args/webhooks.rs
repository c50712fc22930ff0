//! `zectre webhooks …`

use clap::{Args as ClapArgs, Subcommand};

/// `zectre webhooks …`
#[derive(Debug, Subcommand)]
pub enum WebhooksCommand {
    /// Lists webhooks
    #[command(visible_alias = "ls")]
    List,
    /// Makes a webhook, and prints its secret; it is shown only once
    Add(NewWebhookArgs),
    /// Deletes a webhook
    Rm {
        /// Its id, the end of it, or its URL
        webhook: String,
    },
    /// Shows what a webhook was sent, and what it answered
    Deliveries {
        /// Its id, the end of it, or its URL
        webhook: String,
        /// How many to show
        #[arg(long, default_value_t = 20, value_parser = super::number::limit)]
        limit: u32,
    },
    /// Sends a delivery again
    Redeliver {
        /// The webhook's id, the end of it, or its URL
        webhook: String,
        /// The delivery's id, or the end of it [default: the newest that failed]
        delivery: Option<String>,
    },
    /// Calls a webhook again that was disabled because it always failed
    Enable {
        /// Its id, the end of it, or its URL
        webhook: String,
    },
}

/// A webhook to make.
#[derive(Debug, ClapArgs)]
pub struct NewWebhookArgs {
    /// Where to POST: https://…
    pub url: String,
    /// Which actions, such as `deployment.failed`, `build.*` or `*`; may be repeated [default: deployment.*, build.*]
    #[arg(long = "event", value_name = "ACTION")]
    pub events: Vec<String>,
    /// Only events of this project [default: all of the organization]
    #[arg(long, short)]
    pub project: Option<String>,
    /// The organization [default: default]
    #[arg(long, value_name = "SLUG", conflicts_with = "project")]
    pub org: Option<String>,
}
