//! So many connections of one client, and no more: one that opens all that there may be leaves none to the others.

use super::{Ingress, Refusal, client::ClientKey};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

type Counts = HashMap<ClientKey, u32>;

/// Counts connections by client; as many clients as there may be connections.
#[derive(Debug)]
pub struct Crowd {
    /// 0 for no limit.
    max: u32,
    counts: Mutex<Counts>,
}

/// A connection that is counted until it is dropped.
#[derive(Debug)]
pub struct Guest {
    crowd: Arc<Crowd>,
    client: ClientKey,
}

/// A client that is let in.
#[derive(Debug)]
pub(super) struct Admission {
    /// It is a load balancer of ours.
    pub(super) trusted: bool,
    /// Its connection among its others; load balancers of ours bring many clients.
    pub(super) guest: Option<Guest>,
}

impl Ingress {
    /// Lets a client in by its address. `None` where it has too many connections already, which is counted.
    pub(super) fn let_in(&self, address: IpAddr) -> Option<Admission> {
        if self.trust.holds(address) {
            return Some(Admission {
                trusted: true,
                guest: None,
            });
        }
        let guest = self.crowd.enter(ClientKey::new(address));
        if guest.is_none() {
            self.metrics.refused(Refusal::TOO_MANY_CONNECTIONS);
        }
        guest.map(|guest| Admission {
            trusted: false,
            guest: Some(guest),
        })
    }
}

impl Crowd {
    /// At most `max` of each client; 0 for any number.
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self {
            max,
            counts: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more of `client`; `None` where it has too many already.
    pub fn enter(self: &Arc<Self>, client: ClientKey) -> Option<Guest> {
        let mut counts = self.lock();
        let count = counts.entry(client).or_default();
        if self.max > 0 && *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Guest {
            crowd: Arc::clone(self),
            client,
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.crowd.lock();
        let left = counts.get_mut(&self.client).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            counts.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn each_client_has_its_own_and_nothing_is_kept_of_who_left() {
        let crowd = Crowd::new(2);
        let enter = |address: &str| {
            let address: IpAddr = address.parse().expect("an address");
            crowd.enter(ClientKey::new(address))
        };
        let (first, second) = (enter("192.0.2.1"), enter("192.0.2.1"));
        assert!(first.is_some() && second.is_some() && enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        // A subscriber has many addresses and is one client.
        let others = (enter("2001:db8::1"), enter("2001:db8::2"));
        assert!(others.0.is_some() && others.1.is_some() && enter("2001:db8::3").is_none());
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        drop((second, others));
        assert!(crowd.lock().is_empty());
        let any = Crowd::new(0);
        let client = ClientKey::new([192, 0, 2, 1].into());
        let guests: Vec<_> = (0..1_000).map(|_| any.enter(client)).collect();
        assert!(guests.iter().all(Option::is_some));
    }
}
