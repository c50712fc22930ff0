//! A project that a directory is linked to, and that isn't there any more: what became of it, and what to do next.

use crate::{context::Context, error::CliError, link::Link, table::age};
use std::path::Path;
use zectre_common::{
    manifest::Manifest,
    wire::event::{Event, who},
};

/// What the platform records of a project that someone deletes; it is told for longer than the project is there.
const DELETED: &str = "app.deleted";

/// What is known of it.
#[derive(Debug)]
pub(crate) struct Gone {
    link: Link,
    api_url: String,
    /// Its deletion, where this caller is told of it.
    deletion: Option<Event>,
}

impl Gone {
    /// Asks what became of the project of `link`. Without an answer it is only known not to be there.
    pub(crate) async fn of(context: &Context, link: Link) -> Self {
        let deletion = context.client.newest_event(link.project_id, DELETED).await;
        Self {
            link,
            api_url: context.api_url().to_owned(),
            deletion: deletion.ok().flatten(),
        }
    }

    /// Whether someone deleted it. Otherwise it may be another cluster that answers at this address, or one may not see it.
    pub(crate) fn is_deleted(&self) -> bool {
        self.deletion.is_some()
    }

    /// What is told before another one takes its place.
    pub(crate) fn note(&self) -> String {
        format!("Note: {}.", self.what())
    }

    fn what(&self) -> String {
        let Self { link, api_url, .. } = self;
        let name = format!("{}/{}", link.namespace, link.name);
        match &self.deletion {
            Some(event) => format!(
                "the project {name}, which this directory is linked to, was deleted on {api_url} {} ago by {}",
                age(event.time),
                who(&event.actor)
            ),
            None => format!(
                "the project {name}, which this directory is linked to, is not on {api_url}: it is gone, or not yours to see, \
                 or it was another platform that answered there"
            ),
        }
    }

    /// As what keeps a command in `directory` from going on.
    pub(crate) fn into_error(self, directory: &Path) -> CliError {
        // A manifest that can't be read is the next deploy's trouble, not this command's.
        let names = Manifest::load_dir(directory).is_ok_and(|manifest| manifest.name().is_some());
        let anew = if self.is_deleted() && names {
            "`zectre deploy` makes the one that zectre.yaml names".to_owned()
        } else {
            format!(
                "`zectre projects add {}` makes one of that name here",
                self.link.name
            )
        };
        CliError::NotFound(format!(
            "{}. {anew}, `zectre link NAME` links this directory to another one, and `zectre projects list` shows those there are.",
            self.what()
        ))
    }
}
