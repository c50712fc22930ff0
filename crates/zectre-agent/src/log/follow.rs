//! Follows one task's output: by file events into the journal, from there to the API and to watchers.

use super::{
    Live, Spool, Watcher,
    ship::{Delivered, Shipping},
    spool::{Bounds, TELL_INTERVAL},
    watch::Watched,
};
use futures_util::future::{BoxFuture, FutureExt, OptionFuture};
use std::{io, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, mpsc, watch},
    time::Instant,
};
use zectre_common::{id::TaskId, time::Time, wire::log::LogLine};

/// How long a busy task's output gathers before it is looked at again: a look costs the same for one line as for
/// a thousand.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// The same for batches.
const SHIP_PAUSE: Duration = Duration::from_millis(25);
/// The pause after a batch could not be delivered; doubled for each more in a row.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest such pause: what a return of the API may go unnoticed.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// The pause after the disk refused something; doubled for each more in a row.
const RECOVER_PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest such pause: how long a disk that has room again may go unnoticed.
const RECOVER_PAUSE_MAX: Duration = Duration::from_secs(10);

/// How far the following of a task has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Following,
    /// The task has ended, and its last line is in the journal.
    Complete,
    /// The API has every line.
    Shipped,
}

/// A task has ended, and what the platform says of that stands behind all that it printed.
#[derive(Debug, Clone)]
struct End(Option<String>);

/// Where a task's output is.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) task: TaskId,
    /// The task's directory.
    pub(crate) dir: PathBuf,
    pub(crate) bounds: Bounds,
    pub(crate) watcher: Arc<Watcher>,
}

/// All that it takes to follow one.
struct TakenUp {
    spool: Spool,
    tail: Vec<LogLine>,
    watched: Vec<Watched>,
}

impl Source {
    fn take_up(&self, written: &Arc<Notify>) -> io::Result<TakenUp> {
        let (spool, tail) = Spool::open(&self.dir, self.bounds)?;
        let files = Spool::raw_files(&self.dir);
        let watched = files.iter().map(|path| self.watcher.watch(path, written.clone()));
        Ok(TakenUp {
            spool,
            tail,
            watched: watched.collect::<io::Result<_>>()?,
        })
    }
}

/// A task's output, seen from its supervisor.
#[derive(Debug, Clone)]
pub(crate) struct Follower {
    /// The latest lines.
    pub live: Arc<Live>,
    ended: Arc<watch::Sender<Option<End>>>,
    progress: watch::Receiver<Progress>,
    notes: mpsc::Sender<String>,
}

impl Follower {
    /// Of a task without output.
    #[cfg(test)]
    pub(crate) fn idle() -> Self {
        Self {
            live: Arc::new(Live::new(Vec::new())),
            ended: Arc::new(watch::channel(None).0),
            progress: watch::channel(Progress::Shipped).1,
            notes: mpsc::channel(1).0,
        }
    }

    /// Takes up the output and gives the work of following it, which ends once all is shipped.
    pub(crate) fn open(
        source: Source,
        shipping: Shipping,
    ) -> io::Result<(Self, impl Future<Output = ()> + Send + use<>)> {
        let written = Arc::new(Notify::new());
        let taken_up = source.take_up(&written)?;
        Ok(Self::over(source, shipping, written, Ok(taken_up)))
    }

    /// The same for a task that runs already: where its output can't be followed now, that is tried again and again.
    pub(crate) fn resume(
        source: Source,
        shipping: Shipping,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let written = Arc::new(Notify::new());
        let taken_up = source.take_up(&written);
        Self::over(source, shipping, written, taken_up)
    }

    fn over(
        source: Source,
        shipping: Shipping,
        written: Arc<Notify>,
        taken_up: io::Result<TakenUp>,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let task = source.task;
        let (spool, tail, watched, outage) = match taken_up {
            Ok(taken_up) => (Some(taken_up.spool), taken_up.tail, taken_up.watched, None),
            Err(error) => (
                None,
                Vec::new(),
                Vec::new(),
                Some((Instant::now(), error.to_string())),
            ),
        };
        let live = Arc::new(Live::new(tail));
        let (ended, ended_watch) = watch::channel(None);
        let (progress_sender, progress) = watch::channel(Progress::Following);
        // A task is noted about a few times in its life; a full queue means that nobody reads it any more.
        let (notes, notes_queue) = mpsc::channel(8);
        let follower = Self {
            live: live.clone(),
            ended: Arc::new(ended),
            progress,
            notes,
        };
        let work = Work {
            source,
            outage,
            spool,
            watched,
            live,
            shipping,
            written,
            ended: ended_watch,
            notes: notes_queue,
            is_complete: false,
            look_at: Some(Instant::now()),
            shipment: Shipment::Idle,
            ship_at: Instant::now(),
            retry_pause: RETRY_PAUSE_MIN,
        };
        let run = async move {
            if let Err(error) = work.run(&progress_sender).await {
                tracing::error!(%task, %error, "the output of a task is no longer followed");
            }
            // Whoever waits must not wait for ever.
            progress_sender.send_replace(Progress::Shipped);
        };
        (follower, run)
    }

    /// Adds a line of the platform's own.
    pub(crate) fn note(&self, message: impl Into<String>) {
        // Losing a remark is better than holding up a task.
        let _ = self.notes.try_send(message.into());
    }

    /// The task has ended, of which `last_word` is said behind all that it printed: waits (not longer than `deadline`) until
    /// its last line is numbered, and gives the last ones.
    pub(crate) async fn finish(&self, last_word: Option<String>, deadline: Duration) -> Vec<LogLine> {
        self.ended.send_replace(Some(End(last_word)));
        self.reach(Progress::Complete, deadline).await;
        self.live.tail()
    }

    /// Waits until the API has every line, not longer than `deadline`; says whether it has.
    pub(crate) async fn shipped(&self, deadline: Duration) -> bool {
        self.reach(Progress::Shipped, deadline).await
    }

    async fn reach(&self, wanted: Progress, deadline: Duration) -> bool {
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|now| *now >= wanted);
        matches!(tokio::time::timeout(deadline, reached).await, Ok(Ok(_)))
    }
}

/// The way of the next batch.
enum Shipment {
    Idle,
    /// Waits for its turn among the node's tasks.
    Waiting(BoxFuture<'static, OwnedSemaphorePermit>),
    UnderWay(BoxFuture<'static, Delivered>),
}

struct Work {
    source: Source,
    /// Since when nothing could be kept, and why; until a line says so.
    outage: Option<(Instant, String)>,
    /// Away while a blocking step uses it.
    spool: Option<Spool>,
    /// The files that `written` is told of.
    watched: Vec<Watched>,
    live: Arc<Live>,
    shipping: Shipping,
    written: Arc<Notify>,
    ended: watch::Receiver<Option<End>>,
    notes: mpsc::Receiver<String>,
    is_complete: bool,
    /// When to look at the files; `None` until they are written to.
    look_at: Option<Instant>,
    shipment: Shipment,
    /// Not before.
    ship_at: Instant,
    retry_pause: Duration,
}

impl Work {
    /// Follows until all is shipped. A disk that is full or fails ends nothing, for the task goes on writing: all is taken
    /// up anew from what is on the disk, again and again, until the task's directory is gone.
    async fn run(mut self, progress: &watch::Sender<Progress>) -> io::Result<()> {
        let mut pause = RECOVER_PAUSE_MIN;
        loop {
            let began = Instant::now();
            let followed = match self.take_up_again().await {
                Ok(()) => self.follow(progress).await,
                Err(error) => Err(error),
            };
            let Err(error) = followed else { return Ok(()) };
            if !self.source.dir.is_dir() {
                return Err(error);
            }
            if began.elapsed() > RECOVER_PAUSE_MAX {
                pause = RECOVER_PAUSE_MIN;
            }
            tracing::error!(task = %self.source.task, %error, "the output of a task can't be kept for now");
            self.outage
                .get_or_insert_with(|| (Instant::now(), error.to_string()));
            // What it knows may be half of what happened.
            self.spool = None;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RECOVER_PAUSE_MAX);
        }
    }

    /// Nothing to do but after a failure.
    async fn take_up_again(&mut self) -> io::Result<()> {
        let Some((since, why)) = self.outage.clone() else {
            return Ok(());
        };
        // Who stops watching a file stops for all who watch it.
        self.watched.clear();
        let (source, written) = (self.source.clone(), self.written.clone());
        let taken_up = tokio::task::spawn_blocking(move || source.take_up(&written)).await;
        let taken_up = taken_up.map_err(io::Error::other)??;
        (self.spool, self.watched) = (Some(taken_up.spool), taken_up.watched);
        // A batch under way may be stored twice; lines are told apart by their numbers.
        self.shipment = Shipment::Idle;
        self.look_at = Some(Instant::now());
        let seconds = since.elapsed().as_secs_f64();
        self.note(format!(
            "the output could not be kept for {seconds:.1} s ({why}); lines may be missing here"
        ))
        .await?;
        self.outage = None;
        Ok(())
    }

    async fn follow(&mut self, progress: &watch::Sender<Progress>) -> io::Result<()> {
        loop {
            // The end is looked at before the files: what was written before it is then read.
            let ended = self.ended.borrow().is_some();
            if !self.is_complete && (ended || self.look_at.is_some_and(|at| at <= Instant::now())) {
                let more = self.look(ended).await?;
                if ended && !more {
                    // Made before the end was told, so all of them are here.
                    while let Ok(message) = self.notes.try_recv() {
                        self.note(message).await?;
                    }
                    let end = self.ended.borrow().clone();
                    if let Some(End(Some(last_word))) = end {
                        self.note(last_word).await?;
                    }
                    self.is_complete = true;
                    progress.send_replace(Progress::Complete);
                }
            }
            let unshipped = self.spool()?.has_unshipped();
            if unshipped && matches!(self.shipment, Shipment::Idle) && self.ship_at <= Instant::now() {
                self.shipment = Shipment::Waiting(self.shipping.clone().turn().boxed());
            }
            if self.is_complete && !unshipped {
                return Ok(());
            }
            self.wait(ended, unshipped).await?;
        }
    }

    /// Waits until there is something to do; does what concerns batches.
    async fn wait(&mut self, ended: bool, unshipped: bool) -> io::Result<()> {
        let following = !self.is_complete;
        let will_ship = unshipped && matches!(self.shipment, Shipment::Idle);
        let look = OptionFuture::from(self.look_at.map(tokio::time::sleep_until));
        tokio::select! {
            () = self.written.notified(), if following && self.look_at.is_none() => {
                self.look_at = Some(Instant::now());
            }
            Some(()) = look, if following => {}
            _ = self.ended.changed(), if !ended => {}
            Some(message) = self.notes.recv(), if following => self.note(message).await?,
            () = tokio::time::sleep_until(self.ship_at), if will_ship => {}
            next = self.shipment.next() => match next {
                Next::Turn(turn) => self.send(turn).await?,
                Next::Delivered(delivered) => self.settle(delivered).await?,
            },
            () = std::future::ready(()), if following && ended => {}
        }
        Ok(())
    }

    fn spool(&self) -> io::Result<&Spool> {
        self.spool
            .as_ref()
            .ok_or_else(|| io::Error::other("an earlier step failed"))
    }

    async fn note(&mut self, message: String) -> io::Result<()> {
        let line = self
            .on_spool(move |spool| spool.note(Time::now(), message))
            .await?;
        self.live.publish(vec![line]);
        Ok(())
    }

    /// Whether there may be more to read at once.
    async fn look(&mut self, ended: bool) -> io::Result<bool> {
        let watched = self.live.is_watched();
        let (pumped, dropped) = self
            .on_spool(move |spool| {
                let pumped = spool.pump(Time::now(), ended, watched)?;
                Ok((pumped, spool.take_dropped()))
            })
            .await?;
        self.shipping.count_dropped(dropped);
        let any = !pumped.lines.is_empty();
        self.live.publish(pumped.lines);
        self.look_at = if pumped.more {
            Some(Instant::now())
        } else if any {
            // A busy task goes on: its next lines gather meanwhile.
            Some(Instant::now() + LOOK_PAUSE)
        } else if self.spool()?.has_untold() {
            Some(Instant::now() + TELL_INTERVAL)
        } else {
            None
        };
        Ok(pumped.more)
    }

    async fn send(&mut self, turn: OwnedSemaphorePermit) -> io::Result<()> {
        self.ship_at = Instant::now() + SHIP_PAUSE;
        let batch = self.on_spool(Spool::batch).await?;
        self.shipment = match batch {
            Some(batch) => Shipment::UnderWay(
                self.shipping
                    .clone()
                    .deliver(self.source.task, batch, turn)
                    .boxed(),
            ),
            None => Shipment::Idle,
        };
        Ok(())
    }

    async fn settle(&mut self, delivered: Delivered) -> io::Result<()> {
        self.shipment = Shipment::Idle;
        if !delivered.done {
            self.on_spool(|spool| {
                spool.give_back();
                Ok(())
            })
            .await?;
            self.ship_at = Instant::now() + self.retry_pause;
            self.retry_pause = (self.retry_pause * 2).min(RETRY_PAUSE_MAX);
            return Ok(());
        }
        self.retry_pause = RETRY_PAUSE_MIN;
        if self.is_complete || delivered.batch.is_large() {
            self.ship_at = Instant::now();
        }
        self.on_spool(move |spool| spool.acknowledge(&delivered.batch))
            .await
    }

    /// Runs a step that touches the disk where it holds up nobody.
    async fn on_spool<T: Send + 'static>(
        &mut self,
        step: impl FnOnce(&mut Spool) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let mut spool = self
            .spool
            .take()
            .ok_or_else(|| io::Error::other("an earlier step failed"))?;
        let (spool, result) = tokio::task::spawn_blocking(move || {
            let result = step(&mut spool);
            (spool, result)
        })
        .await
        .map_err(io::Error::other)?;
        self.spool = Some(spool);
        result
    }
}

/// What became of the next batch.
enum Next {
    Turn(OwnedSemaphorePermit),
    Delivered(Delivered),
}

impl Shipment {
    async fn next(&mut self) -> Next {
        match self {
            Self::Idle => std::future::pending().await,
            Self::Waiting(turn) => Next::Turn(turn.await),
            Self::UnderWay(delivery) => Next::Delivered(delivery.await),
        }
    }
}
