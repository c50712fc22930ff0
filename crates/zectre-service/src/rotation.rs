//! Rotation of the master keys: a new key seals, everything is sealed anew with it, and the old ones are forgotten once
//! nothing uses them. Whoever holds the key file and the database runs it (`zectre keys`); daemons go on all along.
//!
//! What a value begins with names its key, so the database itself says how far a rotation has come: one that was killed
//! is simply run again.

use crate::{
    key::KeyError,
    ring::{KeyFile, KeyId, KeyRing, LOOK_INTERVAL, RingKey, retired_path},
    seal::{self, place::Column},
    store::sealed::{self, Stale},
};
use secrecy::ExposeSecret;
use sqlx::PgPool;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Blocks of a table that one statement reads: a few hundred rows, a few megabytes where values are large.
const BLOCKS: i64 = 4;
/// Daemons seal with the new key from one look at the file on; what they had sealed before is on its way into the
/// database for far less than the rest of this.
const GRACE: Duration = Duration::from_secs(3);
/// Of passes; each finds what changed under the one before, and the second one has next to nothing left to find.
const PASSES_MAX: u32 = 20;

/// Why there was no rotation, or none to its end.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The key file can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A statement failed.
    #[error("the database failed: {0}")]
    Sql(#[from] sqlx::Error),
    /// Another one has the turn.
    #[error("another rotation is under way; wait for it")]
    Busy,
    /// Something goes on sealing with an old key.
    #[error(
        "values are still being sealed with the old key after {PASSES_MAX} passes: a daemon has an older copy of the key file \
         {0}; copy it there, and rotate again"
    )]
    NotSettled(PathBuf),
}

/// What a rotation came to.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Rotation {
    /// The key that seals.
    pub newest: String,
    /// How many values were sealed anew.
    pub resealed: u64,
    /// How many no key of the ring opens, by column: lost before this.
    pub lost: Vec<(String, u64)>,
    /// The keys that are forgotten.
    pub retired: Vec<String>,
    /// Where those are kept, in case something turns up that one of them sealed.
    pub retired_file: Option<PathBuf>,
    /// It went on with an earlier one, so no new key was made.
    pub resumed: bool,
}

/// A key, and how many values it has sealed.
#[derive(Debug, Clone, serde::Serialize)]
pub struct KeyUse {
    /// Its id; none for values of a key that is not in the file, or of a version that named none.
    pub id: Option<String>,
    /// `seals`, `opens`, `added`, or `retired` for one that was forgotten and has sealed something late: rotate again.
    pub role: &'static str,
    /// Values by column.
    pub values: Vec<(String, i64)>,
}

/// Every key of the ring with what it has sealed in `columns`, the one that seals first.
pub async fn uses(pool: &PgPool, columns: &[Column], key_file: &Path) -> Result<Vec<KeyUse>, RotationError> {
    let file = KeyFile::read(key_file)?;
    let role = |place: usize, added: bool| match (place, added) {
        (0, _) => "seals",
        (_, true) => "added",
        (_, false) => "opens",
    };
    let key = |(place, key): (usize, &RingKey)| KeyUse {
        id: Some(key.id().to_string()),
        role: role(place, key.is_added()),
        values: Vec::new(),
    };
    let mut uses: Vec<KeyUse> = file.keys().iter().enumerate().map(key).collect();
    let retired = KeyRing::load(key_file)?.retired();
    let of_retired = |key: &RingKey| KeyUse {
        id: Some(key.id().to_string()),
        role: "retired",
        values: Vec::new(),
    };
    uses.extend(retired.iter().map(of_retired));
    let mut others = Vec::new();
    for column in columns {
        for (begins, count) in sealed::count(pool, column, (1 + KeyId::BYTES) as i32).await? {
            let mut keys = file.keys().iter().chain(&retired);
            let known = keys.position(|key| seal::prefix(key.id()) == *begins);
            let values = known.map_or(&mut others, |place| &mut uses[place].values);
            match values.last_mut() {
                Some((name, all)) if *name == name_of(column) => *all += count,
                _ => values.push((name_of(column), count)),
            }
        }
    }
    uses.retain(|key| key.role != "retired" || !key.values.is_empty());
    if !others.is_empty() {
        uses.push(KeyUse {
            id: None,
            role: "unnamed",
            values: others,
        });
    }
    Ok(uses)
}

/// Adds a key that only opens, for files that are copied to other machines before the rotation begins. The key's id.
pub fn add(key_file: &Path) -> Result<String, RotationError> {
    let _alone = KeyFile::lock(key_file)?;
    let mut file = KeyFile::read(key_file)?;
    let id = file.add();
    file.write()?;
    Ok(id.to_string())
}

/// Rotates what `columns` hold, which must be all that the ring has sealed, or goes on with a rotation that was broken off. `keep_old` forgets no key: copies of the file on other
/// machines still seal with the old one. `tell` hears how many values were sealed anew so far.
pub async fn rotate(
    pool: &PgPool,
    columns: &[Column],
    key_file: &Path,
    keep_old: bool,
    mut tell: impl FnMut(u64),
) -> Result<Rotation, RotationError> {
    let mut turn = pool.acquire().await?.detach();
    if !sealed::take_turn(&mut turn).await? {
        return Err(RotationError::Busy);
    }
    let _alone = KeyFile::lock(key_file)?;
    let mut file = KeyFile::read(key_file)?;
    let is_resumed = file.keys().len() > 1 && !file.keys().iter().any(RingKey::is_added);
    if !is_resumed {
        file.add();
        file.promote();
        file.write()?;
    }
    let promoted_at = Instant::now();
    let mut pass = Pass {
        pool,
        columns,
        ring: KeyRing::load(key_file)?,
        prefix: seal::prefix(file.keys()[0].id()),
        old: file.keys()[1..]
            .iter()
            .map(|key| seal::prefix(key.id()).to_vec())
            .collect(),
        resealed: 0,
        old_lost: 0,
        lost: Vec::new(),
        tell: &mut tell,
    };
    for _ in 0..PASSES_MAX {
        let settled = promoted_at.elapsed() >= GRACE + LOOK_INTERVAL;
        if !pass.run(settled).await? {
            continue;
        }
        if !settled {
            let left = (GRACE + LOOK_INTERVAL).saturating_sub(promoted_at.elapsed());
            tokio::time::sleep(left).await;
            continue;
        }
        // What was sealed late has come since the pass looked at its column; what no key opens is there for good.
        if !keep_old && sealed::count_of(pool, columns, &pass.old).await? > pass.old_lost {
            continue;
        }
        let lost = std::mem::take(&mut pass.lost);
        let mut retired = Vec::new();
        if !keep_old && file.keys().len() > 1 {
            retired = file.retire()?;
            file.write()?;
            // Who had not seen the new key yet may have sealed meanwhile; what comes later still opens with the keys that are kept.
            pass.run(true).await?;
        }
        return Ok(Rotation {
            newest: file.keys()[0].id().to_string(),
            resealed: pass.resealed,
            lost,
            retired_file: (!retired.is_empty()).then(|| retired_path(key_file)),
            retired: retired.iter().map(ToString::to_string).collect(),
            resumed: is_resumed,
        });
    }
    Err(RotationError::NotSettled(key_file.into()))
}

struct Pass<'a> {
    pool: &'a PgPool,
    columns: &'a [Column],
    ring: KeyRing,
    prefix: [u8; 1 + KeyId::BYTES],
    /// What values of the keys begin with that will be forgotten.
    old: Vec<Vec<u8>>,
    resealed: u64,
    /// How many of those the last pass could not open.
    old_lost: i64,
    lost: Vec<(String, u64)>,
    tell: &'a mut dyn FnMut(u64),
}

impl Pass<'_> {
    /// Goes through everything once; whether nothing was left to do. `settle` waits first for what is being written.
    async fn run(&mut self, settle: bool) -> Result<bool, RotationError> {
        let mut is_clean = true;
        self.lost.clear();
        self.old_lost = 0;
        for column in self.columns {
            if settle {
                sealed::settle(self.pool, column).await?;
            }
            let blocks = sealed::blocks(self.pool, column).await?;
            let mut lost = 0;
            let mut from = 0;
            while from < blocks {
                let stale = sealed::stale(self.pool, column, (from, from + BLOCKS), &self.prefix).await?;
                from += BLOCKS;
                let (news, unreadable) = self.seal_anew(column, stale);
                lost += unreadable;
                if news.is_empty() {
                    continue;
                }
                // Some may have been changed meanwhile: the next pass sees what they are now.
                is_clean = false;
                self.resealed += sealed::replace(self.pool, column, &news).await?;
                (self.tell)(self.resealed);
            }
            if lost > 0 {
                self.lost.push((name_of(column), lost));
            }
        }
        Ok(is_clean)
    }

    fn seal_anew(&mut self, column: &Column, stale: Vec<Stale>) -> (Vec<(Stale, Vec<u8>)>, u64) {
        let (mut news, mut lost) = (Vec::with_capacity(stale.len()), 0);
        for one in stale {
            let context = (column.context)(&one.row);
            match seal::open(&self.ring, &context, &one.sealed) {
                Ok(plain) => {
                    let new = seal::seal(&self.ring, &context, plain.expose_secret());
                    news.push((one, new));
                }
                Err(seal::OpenError) => {
                    lost += 1;
                    let is_old = self.old.iter().any(|prefix| one.sealed.starts_with(prefix));
                    self.old_lost += i64::from(is_old);
                }
            }
        }
        (news, lost)
    }
}

fn name_of(column: &Column) -> String {
    format!("{}.{}", column.table, column.column)
}
