//! One connection: finds a task for it, waiting where that helps, and joins the two.

use super::copy::{self, End};
use crate::{
    access::Entry,
    ingress::{Ingress, Refusal, hold::Waiting, vigil},
    metrics::{Counted, RawEnd, UpstreamError},
};
use http::{HeaderMap, StatusCode};
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{io::Interest, net::TcpStream};
use zectre_service::request_id;

/// Tasks that one connection is tried at.
const TRIES_MAX: u32 = 8;

/// Serves a connection of `client` that came in at `port`.
pub(crate) async fn serve(
    ingress: Arc<Ingress>,
    stream: TcpStream,
    client: IpAddr,
    port: u16,
    place: vigil::Place,
    idle: Duration,
) {
    let _place = place;
    let metrics = &ingress.metrics.raw;
    let end = match ingress.join(stream, client, port, idle).await {
        Ok(End::Done) => RawEnd::Done,
        Ok(End::Broken) => RawEnd::Broken,
        Ok(End::Idle) => RawEnd::Idle,
        Err(Some(refusal)) => {
            tracing::debug!(port, %client, %refusal, "refused a connection");
            ingress.metrics.refused(refusal.label());
            RawEnd::Refused
        }
        Err(None) => RawEnd::Gone,
    };
    metrics.ended[end as usize].inc();
}

impl Ingress {
    /// `Err(None)`: the client left before a task was found.
    async fn join(
        &self,
        client: TcpStream,
        address: IpAddr,
        port: u16,
        idle: Duration,
    ) -> Result<End, Option<Refusal>> {
        let (began, _in_flight) = (Instant::now(), Counted::new(&self.metrics.in_flight));
        // A failure means that the client is gone already, which is noticed soon enough.
        let _ = copy::breaks_unless_told(&client);
        self.admit(address).map_err(Some)?;
        let (id, mut entry) = (
            request_id::value_from_headers(&HeaderMap::new()),
            Entry::default(),
        );
        let mut waiting = Waiting::at_port(port, &id, &mut entry);
        let found = tokio::select! {
            found = self.find_task(&mut waiting) => found,
            () = gone(&client) => return Err(None),
        };
        let (task, lease) = match found {
            Ok(found) => found,
            Err(refusal) => {
                waiting.refuse(refusal.status(), began.elapsed());
                return Err(Some(refusal));
            }
        };
        let (visit, _) = waiting.finish();
        if let Some(visit) = &visit {
            // As a tunnel: the time is that to its beginning.
            let (status, after) = (StatusCode::SWITCHING_PROTOCOLS, began.elapsed());
            visit.red().answered(status, after);
            if let Some(node) = lease.replica().node() {
                node.answered(status, after);
            }
        }
        let _ = copy::breaks_unless_told(&task);
        Ok(copy::join(client, task, idle, &self.metrics.raw).await)
    }

    /// A connection to a task, and the place on it.
    async fn find_task(&self, waiting: &mut Waiting<'_>) -> Result<(TcpStream, crate::live::Lease), Refusal> {
        for _ in 0..TRIES_MAX {
            let lease = self.place(waiting).await?.lease;
            let replica = lease.replica();
            match self.upstream.open(replica).await {
                Ok(stream) => {
                    replica.answered();
                    replica.served();
                    return Ok((stream, lease));
                }
                Err(cause) => {
                    self.metrics.upstream_error(UpstreamError::Connect);
                    tracing::debug!(task = %replica.task(), cause, "a task took no connection");
                    waiting.unreachable(cause);
                    replica.eject(self.now_ms());
                }
            }
        }
        let cause = waiting.last_failure().unwrap_or("no replica answered");
        Err(Refusal::BadGateway(format!(
            "{TRIES_MAX} tries failed, the last one so: {cause}"
        )))
    }
}

/// Resolves when the connection is broken. (One that only says no more may well want to hear something.)
async fn gone(stream: &TcpStream) {
    let _ = stream.ready(Interest::ERROR).await;
}
