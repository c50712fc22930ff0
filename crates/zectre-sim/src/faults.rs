//! What goes wrong: processes and machines end, connections are cut, clocks jump, the database stalls.

use crate::{
    host::HostAct,
    leader::LeaderAct,
    network::Place,
    proxy::ProxyAct,
    random::Random,
    sim::{Act, MS, SECOND, Sim, Us, note},
    trouble::Trouble,
};
use std::collections::BTreeSet;

/// No scheduler's clock is further off than this; a machine without NTP for a week is.
pub(crate) const SKEW_MAX_US: Us = 2 * SECOND;
/// No proxy's clock is: more than activity is looked back for.
pub(crate) const PROXY_SKEW_MAX_US: Us = 20 * SECOND;

/// The end of a fault.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Healing {
    /// A connection works again.
    Mend(Place, Place),
    /// The database answers again.
    Database,
    /// The network is as fast as ever.
    Fast,
    /// The server notices that the leader's connection is gone.
    Unlock(usize, u64),
    /// A scheduler starts again.
    Scheduler(usize),
}

/// How bad a world is: drawn once for each seed, so that some are calm enough for rare sequences.
#[derive(Debug)]
pub(crate) struct Faults {
    pub(crate) loss_per_mille: u64,
    pub(crate) twice_per_mille: u64,
    pub(crate) slow_per_mille: u64,
    pub(crate) fail_per_mille: u64,
    /// The next commit of this term is rolled back.
    pub(crate) doomed_term: Option<u64>,
    /// What the world had.
    pub(crate) seen: BTreeSet<Trouble>,
    pause_us: Us,
}

impl Faults {
    /// A world's.
    pub(crate) fn new(random: &mut Random) -> Self {
        let mut draw = |all: &[u64]| random.pick(all).unwrap_or(0);
        Self {
            loss_per_mille: draw(&[0, 5, 50]),
            twice_per_mille: draw(&[0, 10, 50]),
            slow_per_mille: draw(&[0, 5, 20]),
            fail_per_mille: draw(&[0, 5, 20]),
            doomed_term: None,
            seen: BTreeSet::new(),
            pause_us: draw(&[3, 6, 15, 60]) * SECOND,
        }
    }
}

impl Sim {
    /// The next fault.
    pub(crate) fn next_fault(&mut self) {
        if !self.is_stormy() {
            return self.heal_all();
        }
        let pause_us = self.random.between(SECOND, self.faults.pause_us * 2);
        self.after(pause_us, Act::Fault);
        let lasts_us = self.random.between(200 * MS, 16 * SECOND);
        match self.random.below(100) {
            0..18 => self.end_agent(lasts_us),
            18..30 => self.end_machine(lasts_us),
            30..44 => self.cut_something(lasts_us),
            44..54 => self.end_scheduler(lasts_us),
            54..62 => self.freeze_scheduler(lasts_us),
            62..76 => self.end_proxy(lasts_us),
            76..82 => self.stop_database(lasts_us),
            82..90 => {
                note!(self, "the network is slow");
                self.trouble(Trouble::NetworkSlow);
                self.network.slow = true;
                self.after(lasts_us, Act::Heal(Healing::Fast));
            }
            90..95 => self.shift_clock(),
            _ if self.proxies.len() < 4 => {
                self.trouble(Trouble::ProxyAdded);
                self.add_proxy();
            }
            _ => self.lose_lock(),
        }
    }

    /// The storm is over: everything works again.
    fn heal_all(&mut self) {
        note!(self, "the storm is over");
        self.network.mend_all();
        self.database.is_down = false;
        self.reconnect_proxies();
        for index in 0..self.hosts.len() {
            self.after(0, Act::Host(index, HostAct::Boot));
        }
        for index in 0..self.proxies.len() {
            self.after(0, Act::Proxy(index, ProxyAct::Boot));
        }
    }

    pub(crate) fn heal(&mut self, healing: Healing) {
        match healing {
            Healing::Mend(one, other) => {
                self.network.mend(one, other);
                self.reconnect_proxies();
            }
            Healing::Database => {
                if std::mem::take(&mut self.database.is_down) {
                    note!(self, "the database answers again");
                    self.reconnect_proxies();
                }
            }
            Healing::Fast => self.network.slow = false,
            Healing::Unlock(index, term) => {
                if self.database.lock == Some((index, term)) {
                    self.database.lock = None;
                }
            }
            Healing::Scheduler(index) => {
                let scheduler = &mut self.schedulers[index];
                if std::mem::replace(&mut scheduler.is_up, true) {
                    return;
                }
                let incarnation = scheduler.incarnation;
                note!(self, "scheduler {index} starts");
                self.after(MS, Act::Leader(index, LeaderAct::Stand(incarnation)));
            }
        }
    }

    fn end_agent(&mut self, lasts_us: Us) {
        let index = self.random.below(self.hosts.len());
        self.hosts[index].agent_up = false;
        note!(self, "the agent of host {index} ends");
        self.trouble(Trouble::AgentEnded);
        // Mostly its supervisor starts it at once.
        let lasts_us = if self.random.chance(700) {
            lasts_us / 40
        } else {
            lasts_us
        };
        self.after(lasts_us, Act::Host(index, HostAct::Boot));
    }

    fn end_machine(&mut self, lasts_us: Us) {
        let index = self.random.below(self.hosts.len());
        let host = &mut self.hosts[index];
        (host.is_on, host.agent_up) = (false, false);
        let tasks: Vec<_> = std::mem::take(&mut host.processes).into_keys().collect();
        note!(self, "host {index} loses power");
        self.trouble(Trouble::MachineEnded);
        for task in tasks {
            self.requests_end_with(task);
        }
        self.after(lasts_us, Act::Host(index, HostAct::Boot));
    }

    fn cut_something(&mut self, lasts_us: Us) {
        let (schedulers, hosts, proxies) = (self.schedulers.len(), self.hosts.len(), self.proxies.len());
        let mut cuts = Vec::new();
        let host = Place::Host(self.random.below(hosts));
        let proxy = Place::Proxy(self.random.below(proxies));
        let scheduler = Place::Scheduler(self.random.below(schedulers));
        let all = (0..schedulers).map(Place::Scheduler);
        match self.random.below(8) {
            0 => cuts.extend(all.map(|scheduler| (host, scheduler))),
            1 => cuts.push((host, scheduler)),
            2 => cuts.extend((0..hosts).map(|index| (Place::Host(index), scheduler))),
            3 => cuts.push((scheduler, Place::Database)),
            4 => cuts.push((proxy, Place::Database)),
            5 => cuts.extend(all.map(|scheduler| (proxy, scheduler))),
            6 => cuts.push((proxy, scheduler)),
            _ => cuts.extend(
                all.filter(|other| *other != scheduler)
                    .map(|other| (other, scheduler)),
            ),
        }
        note!(self, "cut: {cuts:?}");
        self.trouble(Trouble::Cut);
        for (one, other) in cuts {
            self.network.cut(one, other);
            self.after(lasts_us, Act::Heal(Healing::Mend(one, other)));
        }
    }

    fn end_scheduler(&mut self, lasts_us: Us) {
        let index = self.random.below(self.schedulers.len());
        if !self.schedulers[index].is_up {
            return;
        }
        note!(self, "scheduler {index} ends");
        self.trouble(Trouble::SchedulerEnded);
        let term = self.schedulers[index].term.take();
        let scheduler = &mut self.schedulers[index];
        scheduler.is_up = false;
        scheduler.incarnation += 1;
        if let Some(term) = term
            && self.database.lock == Some((index, term.id))
        {
            self.release_lock(index, term.id);
        }
        self.after(lasts_us, Act::Heal(Healing::Scheduler(index)));
    }

    /// It stands still, and goes on as if nothing had been; its connection may be gone by then.
    fn freeze_scheduler(&mut self, lasts_us: Us) {
        let index = self.random.below(self.schedulers.len());
        note!(self, "scheduler {index} stands still");
        self.trouble(Trouble::SchedulerFrozen);
        self.schedulers[index].frozen_until_us = self.now_us + lasts_us;
        if let Some((holder, term)) = self.database.lock
            && holder == index
            && self.random.chance(700)
        {
            let notices_us = self.random.between(0, lasts_us);
            self.after(notices_us, Act::Heal(Healing::Unlock(index, term)));
        }
    }

    /// The connection that holds the lock breaks, and nobody tells the leader.
    fn lose_lock(&mut self) {
        if let Some((index, _)) = self.database.lock.take() {
            note!(self, "the lock of scheduler {index} is lost");
            self.trouble(Trouble::LockLost);
        }
    }

    fn end_proxy(&mut self, lasts_us: Us) {
        let index = self.random.below(self.proxies.len());
        let in_order = self.random.chance(500);
        let proxy = &mut self.proxies[index];
        if !proxy.is_up {
            return;
        }
        proxy.is_up = false;
        note!(self, "proxy {index} ends, in order: {in_order}");
        if in_order && !self.database.is_down {
            self.database.proxies.remove(&proxy.id);
        }
        self.trouble(Trouble::ProxyEnded);
        self.after(lasts_us, Act::Proxy(index, ProxyAct::Boot));
    }

    fn stop_database(&mut self, lasts_us: Us) {
        note!(self, "the database is down");
        self.trouble(Trouble::DatabaseDown);
        self.database.is_down = true;
        self.database.lock = None;
        // Its connections break, and what was not committed never will be.
        self.database.fences.clear();
        self.checks.in_flight.clear();
        self.after(lasts_us, Act::Heal(Healing::Database));
    }

    /// How far a machine's clock is ahead.
    pub(crate) fn skew_us(&mut self, max_us: Us) -> i64 {
        self.random.between(0, 2 * max_us) as i64 - max_us as i64
    }

    fn shift_clock(&mut self) {
        self.trouble(Trouble::ClockShifted);
        if self.random.chance(300) {
            let skew_us = self.skew_us(PROXY_SKEW_MAX_US);
            let index = self.random.below(self.proxies.len());
            note!(self, "the clock of proxy {index} is {skew_us} µs ahead");
            self.proxies[index].skew_us = skew_us;
            return;
        }
        let skew_us = self.skew_us(SKEW_MAX_US);
        let index = self.random.below(self.schedulers.len());
        note!(self, "the clock of scheduler {index} is {skew_us} µs ahead");
        self.schedulers[index].skew_us = skew_us;
    }
}
