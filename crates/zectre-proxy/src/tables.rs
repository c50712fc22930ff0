//! The table that serves now, and the swap to the next one: a request sees one table or the other, and an
//! epoch is acknowledged only after the swap.

use crate::{
    live::{Acknowledgement, Bounds, Ledger},
    table::{Changes, Rows, Table},
};
use arc_swap::{ArcSwap, Guard};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::watch;

/// The serving table.
#[derive(Debug)]
pub struct Tables {
    table: ArcSwap<Table>,
    ledger: Ledger,
    platform_domain: String,
    /// Counts swaps.
    version: watch::Sender<u64>,
    from_database: AtomicBool,
}

impl Tables {
    /// Empty; `bounds` are for the metrics.
    pub fn new(platform_domain: &str, bounds: Bounds) -> Self {
        Self {
            table: ArcSwap::default(),
            ledger: Ledger::new(bounds),
            platform_domain: platform_domain.to_owned(),
            version: watch::Sender::new(0),
            from_database: AtomicBool::new(false),
        }
    }

    /// The table now.
    pub fn current(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// What outlives tables.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Told after every swap.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Swaps to the table of `rows`, which were read from the database.
    pub fn apply(&self, rows: Rows) {
        self.swap(rows, true);
    }

    /// Swaps to the table of a snapshot, until the database can be read.
    pub fn restore(&self, rows: Rows) {
        self.swap(rows, false);
    }

    fn swap(&self, rows: Rows, from_database: bool) {
        let mut kept = self.ledger.open();
        let table = Arc::new(Table::build(rows, &self.platform_domain, &mut kept));
        self.table.store(Arc::clone(&table));
        // Only now: whoever still holds the old table can't lease what this removes, and looks again.
        table.settle(&mut kept);
        drop(kept);
        self.from_database.fetch_or(from_database, Ordering::SeqCst);
        self.tell(&table);
    }

    /// Swaps to the table after `changes`, which were read from the database. To be called by the one who read the table that
    /// serves now, with all that has changed since.
    pub fn change(&self, changes: Changes) {
        let mut kept = self.ledger.open();
        let (table, shift) = self.current().changed(changes, &mut kept);
        let table = Arc::new(table);
        self.table.store(Arc::clone(&table));
        // As above.
        kept.settle_shift(table.epoch(), &shift);
        drop(kept);
        self.tell(&table);
    }

    fn tell(&self, table: &Table) {
        let from_database = self.from_database.load(Ordering::SeqCst);
        tracing::debug!(
            epoch = table.epoch(),
            from_database,
            "a routing table was applied"
        );
        self.version.send_modify(|version| *version += 1);
    }

    /// The table now, if it is the database's.
    pub fn read(&self) -> Option<Arc<Table>> {
        let from_database = self.from_database.load(Ordering::SeqCst);
        from_database.then(|| self.table.load_full())
    }

    /// Whether there is any table to route by.
    pub fn is_loaded(&self) -> bool {
        self.current().epoch() > 0
    }

    /// What to tell the scheduler; `None` before the first table from the database.
    pub fn acknowledgement(&self) -> Option<Acknowledgement> {
        self.from_database
            .load(Ordering::SeqCst)
            .then(|| self.ledger.acknowledgement())
    }
}
