//! File and port rules by landlock, which a program can't take back either.
//!
//! The second wall around files (the first is the file view), and the only one where there is no file view. It
//! also keeps a task from listening on another's port: two programs that both ask for it can share one in silence.

use super::{
    Run,
    view::{DEVICES, NAME_FILES, SCRATCH_PATHS, SETTINGS_PATHS, SYSTEM_PATHS},
};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::path::Path;

/// The newest version whose rules were tried; what an older kernel lacks of it is left out.
const NEWEST: ABI = ABI::V6;
/// The first version that knows ports.
pub(crate) const PORTS_SINCE: u32 = 4;
/// The first version that knows signals and abstract sockets.
pub(crate) const SCOPES_SINCE: u32 = 6;

/// Without a file view of one's own: what is read besides programs and settings.
const HOST_READ_PATHS: [&str; 4] = ["/proc", "/etc/passwd", "/etc/group", "/run/systemd/resolve"];

/// The rules so far.
pub(super) struct Rules(RulesetCreated);

fn said(error: &RulesetError) -> String {
    format!("landlock: {error}")
}

fn read_only() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

/// Everything but making devices.
fn read_write() -> BitFlags<AccessFs> {
    AccessFs::from_all(NEWEST) & !(AccessFs::MakeChar | AccessFs::MakeBlock)
}

impl Rules {
    /// Nothing but what the caller allows.
    pub(super) fn new() -> Result<Self, String> {
        Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))
            .and_then(|rules| rules.handle_access(AccessNet::BindTcp))
            .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
            .and_then(Ruleset::create)
            .map(Self)
            .map_err(|error| said(&error))
    }

    /// What doesn't depend on the task, in a file view of its own (built already) or the host's.
    pub(super) fn for_any_task(own_view: bool) -> Result<Self, String> {
        let mut rules = Self::new()?;
        let run = read_only() | AccessFs::Execute;
        if own_view {
            rules = rules.allow("/".as_ref(), run)?;
            for path in SCRATCH_PATHS {
                rules = rules.allow(path.as_ref(), read_write())?;
            }
        } else {
            for path in SYSTEM_PATHS {
                rules = rules.allow(path.as_ref(), run)?;
            }
            for path in SETTINGS_PATHS.iter().chain(&NAME_FILES).chain(&HOST_READ_PATHS) {
                rules = rules.allow(path.as_ref(), read_only())?;
            }
        }
        for path in DEVICES {
            rules = rules.allow(
                path.as_ref(),
                AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
            )?;
        }
        rules.bind(0)
    }

    /// Adds what one task may do.
    pub(super) fn for_task(self, run: &Run, own_view: bool) -> Result<Self, String> {
        let mut rules = self.bind(run.port)?;
        for volume in &run.volumes {
            let path = if own_view { &volume.path } else { &volume.host_path };
            rules = rules.allow(path, read_write())?;
        }
        if own_view {
            return Ok(rules);
        }
        rules
            .allow(&run.artifact_dir, read_only() | AccessFs::Execute)?
            .allow(&run.scratch_dir, read_write())
    }

    /// A path that isn't there needs no rule.
    fn allow(self, path: &Path, access: BitFlags<AccessFs>) -> Result<Self, String> {
        let Ok(file) = PathFd::new(path) else {
            return Ok(self);
        };
        let access = if path.is_dir() {
            access
        } else {
            access & AccessFs::from_file(NEWEST)
        };
        self.0
            .add_rule(PathBeneath::new(file, access))
            .map(Self)
            .map_err(|error| said(&error))
    }

    fn bind(self, port: u16) -> Result<Self, String> {
        self.0
            .add_rule(NetPort::new(port, AccessNet::BindTcp))
            .map(Self)
            .map_err(|error| said(&error))
    }

    /// From here on they hold, for us and all that we start; gives the version of the kernel's rules.
    pub(super) fn hold(self) -> Result<u32, String> {
        let held = self.0.restrict_self().map_err(|error| said(&error))?;
        match held.landlock {
            LandlockStatus::Available { effective_abi, .. } if held.ruleset != RulesetStatus::NotEnforced => {
                Ok(effective_abi as u32)
            }
            LandlockStatus::NotEnabled => Err("the kernel has landlock, but it is not switched on".into()),
            _ => Err("the kernel has no landlock".into()),
        }
    }
}
