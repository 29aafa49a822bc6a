//! `eip webhook`.

use clap::{Args as ClapArgs, Subcommand};
use eip_model::{EventKind, Label, ProjectName, WebhookUrl};

#[derive(Debug, Subcommand)]
pub(crate) enum Webhooks {
    /// Make one. Its secret is printed this once.
    Create {
        /// Where to send to: an https or http address.
        #[arg(value_name = "URL")]
        to: WebhookUrl,
        /// Whose events [default: those that your key may see].
        #[arg(long)]
        project: Option<ProjectName>,
        /// What to call it.
        #[arg(long)]
        name: Option<Label>,
        /// Which events, as in allocated,moved [default: all].
        #[arg(long, value_name = "KINDS", value_delimiter = ',')]
        kind: Vec<EventKind>,
    },
    /// List them: where each sends to, and how it fares.
    #[command(visible_alias = "ls")]
    List,
    /// Show one.
    Show { id: String },
    /// Change one. It is tried at once.
    Set {
        id: String,
        #[command(flatten)]
        changes: Changes,
    },
    /// Send again, beginning with what happened since it was disabled.
    Enable { id: String },
    /// Send nothing until it is enabled again.
    Disable { id: String },
    /// Give one another secret, which is printed this once. For a day messages are signed with both.
    Rotate { id: String },
    /// Delete one.
    #[command(visible_alias = "rm")]
    Delete { id: String },
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = true)]
pub(crate) struct Changes {
    /// Where to send to.
    #[arg(long, value_name = "URL")]
    pub(crate) to: Option<WebhookUrl>,
    /// What to call it.
    #[arg(long)]
    pub(crate) name: Option<Label>,
    /// Which events, as in allocated,moved.
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub(crate) kind: Vec<EventKind>,
    /// All kinds of event.
    #[arg(long, conflicts_with = "kind")]
    pub(crate) all_kinds: bool,
}
