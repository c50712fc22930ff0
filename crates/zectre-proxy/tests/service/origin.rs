//! An HTTP server that answers what a test says, counts, and can be killed by dropping it.

use crate::program::Program;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

pub(crate) type Body = BoxBody<Bytes, hyper::Error>;

pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    _program: Program,
}

/// Where nobody listens, and no other test will meanwhile: a port that was free a moment ago is another's a moment later.
pub(crate) fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], zectre_testkit::free_port()))
}

pub(crate) fn text(text: impl Into<Bytes>) -> Response<Body> {
    Response::new(
        Full::new(text.into())
            .map_err(|never: Infallible| match never {})
            .boxed(),
    )
}

impl Origin {
    pub(crate) async fn new<H, F>(handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::at(([127, 0, 0, 1], 0).into(), handler).await
    }

    /// The same at `address`, which is free.
    pub(crate) async fn at<H, F>(address: SocketAddr, handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let (requests, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (seen, accepted) = (Arc::clone(&requests), Arc::clone(&connections));
        let program = Program::at(address, move |stream| {
            accepted.fetch_add(1, SeqCst);
            let (seen, handler) = (Arc::clone(&seen), handler.clone());
            let service = service_fn(move |request| {
                seen.fetch_add(1, SeqCst);
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            }
        })
        .await;
        Self {
            address: program.address,
            requests,
            connections,
            _program: program,
        }
    }

    /// Answers every request with `words`.
    pub(crate) async fn saying(words: &'static str) -> Self {
        Self::new(move |_| async move { text(words) }).await
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }

    /// Waits until so many requests have come.
    pub(crate) async fn served(&self, requests: usize) {
        zectre_testkit::wait_until(crate::world::SOON, "the requests come", || async {
            (self.requests() >= requests).then_some(())
        })
        .await;
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}
