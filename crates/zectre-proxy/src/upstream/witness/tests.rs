use super::*;
use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const REQUEST: &[u8] = b"POST / HTTP/1.1";

/// A connection that has had a request and its answer.
struct Kept {
    witness: Witness,
    receipt: Arc<Receipt>,
    /// The task's side.
    task: Option<TcpStream>,
    /// What was written until now.
    before: u64,
}

impl Kept {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let ours = TcpStream::connect(listener.local_addr().expect("bound"))
            .await
            .expect("it listens");
        let (mut task, _) = listener.accept().await.expect("one came");
        let receipt = Arc::new(Receipt::new());
        let mut witness = Witness::new(ours, &receipt);
        witness.write_all(REQUEST).await.expect("it is open");
        read(&mut task, REQUEST.len()).await;
        task.write_all(b"ok").await.expect("it is open");
        witness.read_exact(&mut [0; 2]).await.expect("it is open");
        let before = receipt.written();
        Self {
            witness,
            receipt,
            task: Some(task),
            before,
        }
    }

    fn task(&mut self) -> &mut TcpStream {
        self.task.as_mut().expect("it has not closed")
    }

    async fn write(&mut self) {
        self.witness
            .write_all(REQUEST)
            .await
            .expect("nothing has failed yet");
    }

    async fn comes_to_its_end(&mut self) {
        assert_eq!(self.witness.read(&mut [0; 8]).await.expect("an end"), 0);
    }

    async fn is_reset(&mut self) {
        let error = self.witness.read(&mut [0; 8]).await.expect_err("a reset");
        assert_eq!(error.kind(), ConnectionReset);
    }

    /// Whether it is known that the task has had nothing since.
    fn was_untaken(&self) -> bool {
        self.receipt.ends_at(self.before)
    }
}

async fn read(stream: &mut TcpStream, bytes: usize) {
    stream
        .read_exact(&mut vec![0; bytes])
        .await
        .expect("so many come");
}

#[tokio::test]
async fn what_comes_after_a_close_was_not_taken() {
    let mut kept = Kept::new().await;
    drop(kept.task.take());
    kept.write().await;
    kept.comes_to_its_end().await;
    assert!(kept.was_untaken());
    // Whoever reads on is told the same.
    kept.comes_to_its_end().await;
    assert!(kept.was_untaken());
}

#[tokio::test]
async fn a_write_that_fails_after_a_close_tells_it_too() {
    let mut kept = Kept::new().await;
    drop(kept.task.take());
    kept.write().await;
    // The reset comes at some time.
    let error = loop {
        match kept.witness.write(REQUEST).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), BrokenPipe);
    assert!(kept.was_untaken());
}

#[tokio::test]
async fn what_was_read_before_a_close_was_taken() {
    let mut kept = Kept::new().await;
    kept.write().await;
    read(kept.task(), REQUEST.len()).await;
    drop(kept.task.take());
    // More of it, which nobody takes.
    kept.write().await;
    kept.comes_to_its_end().await;
    assert!(!kept.was_untaken());
    assert!(kept.receipt.ends_at(kept.before + REQUEST.len() as u64));
}

#[tokio::test]
async fn what_is_closed_unread_or_reset_may_have_been_read_in_part() {
    for (linger, part) in [
        (false, 0),
        (false, 4),
        (true, 0),
        (true, 4),
        (true, REQUEST.len()),
    ] {
        let mut kept = Kept::new().await;
        kept.write().await;
        kept.task().readable().await.expect("it has come");
        read(kept.task(), part).await;
        if linger {
            kept.task().set_zero_linger().expect("an option");
        }
        drop(kept.task.take());
        kept.is_reset().await;
        assert!(!kept.was_untaken(), "{linger} {part}");
        // After its error the socket looks like one that was closed.
        kept.comes_to_its_end().await;
        kept.witness.write_all(REQUEST).await.expect_err("it is over");
        assert!(!kept.was_untaken());
    }
}

#[tokio::test]
async fn what_is_closed_in_one_direction_is_read_yet() {
    for reset in [false, true] {
        let mut kept = Kept::new().await;
        kept.task().shutdown().await.expect("it is open");
        kept.write().await;
        // It is told once the task's host has acknowledged the request.
        kept.comes_to_its_end().await;
        assert!(!kept.was_untaken());
        read(kept.task(), REQUEST.len()).await;
        if reset {
            kept.task().set_zero_linger().expect("an option");
            drop(kept.task.take());
            let _ = kept.witness.write_all(REQUEST).await;
            assert!(!kept.receipt.ends_at(kept.before));
        }
    }
}

#[tokio::test]
async fn an_end_without_a_request_tells_nothing() {
    let mut kept = Kept::new().await;
    drop(kept.task.take());
    kept.comes_to_its_end().await;
    assert!(!kept.was_untaken());
}
