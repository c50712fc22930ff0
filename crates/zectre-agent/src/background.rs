//! Work about tasks that goes on in the background until the agent lets go of them.

use zectre_service::tasks::{Shutdown, Tasks};

/// Runs it.
#[derive(Clone)]
pub(crate) struct Background {
    tasks: Tasks,
    cut: Shutdown,
}

impl Background {
    /// Supervised with the service's other tasks.
    pub(crate) fn new(tasks: Tasks) -> Self {
        Self {
            tasks,
            cut: Shutdown::new(),
        }
    }

    /// Runs work in the background. It ends with the agent at the latest, which is not held up by it.
    pub(crate) fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone();
        self.tasks.spawn_brief(name, async move {
            cut.or_requested(work).await;
        });
    }

    /// Cuts off what is under way.
    pub(crate) fn let_go(&self) {
        self.cut.request();
    }
}

impl std::fmt::Debug for Background {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}
