//! `Expect: 100-continue`: the task is told of it, and the client's body is kept back until the task asks for it. So a
//! program can refuse a body before it is sent, and one that dies before it asks has had no request yet: another one
//! gets it, whatever its method.

use super::body::Upload;
use http::{HeaderValue, Request, StatusCode, Version, header, request::Parts};
use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{sync::Notify, time::timeout};

/// A task that has neither asked for the body nor answered within this time does not know the word: it gets the body.
/// (What curl waits for a server.)
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// What is expected.
pub(super) const CONTINUE: HeaderValue = HeaderValue::from_static("100-continue");

/// Whether the client waits for a word before it sends its body. To HTTP/1.0 there is none.
pub(super) fn is_expected(parts: &Parts) -> bool {
    let expects = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(CONTINUE.as_bytes());
    parts.version != Version::HTTP_10 && parts.headers.get(header::EXPECT).is_some_and(expects)
}

/// Before a body that nobody has asked for yet.
pub(super) struct Gate(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl Gate {
    /// Ready when it is open.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

/// Opens a gate.
#[derive(Debug)]
pub(super) struct Asked(Arc<Notify>);

impl Asked {
    /// Whether `request`, as the task will see it, is one whose body waits.
    pub(super) fn is_waited_for(request: &Request<Upload>) -> bool {
        request.headers().contains_key(header::EXPECT)
    }

    /// A gate that the task's word on `request` opens.
    pub(super) fn gate(request: &mut Request<Upload>) -> (Self, Gate) {
        let asked = Arc::new(Notify::new());
        let (told, waiting) = (Arc::clone(&asked), Arc::clone(&asked));
        hyper::ext::on_informational(request, move |answer| {
            if answer.status() == StatusCode::CONTINUE {
                told.notify_one();
            }
        });
        let gate = async move {
            // Either way it opens.
            let _ = timeout(ASK_TIMEOUT, waiting.notified()).await;
        };
        (Self(asked), Gate(Box::pin(gate)))
    }

    /// The task answers without having asked. Unless it refuses, it will want the body all the same, and the client
    /// must be told before it gets the answer: after that, the library does not tell it any more.
    pub(super) async fn answered(self, status: StatusCode) {
        if status.as_u16() < 400 {
            self.0.notify_one();
            // The body's turn is before ours.
            tokio::task::yield_now().await;
        }
    }
}
