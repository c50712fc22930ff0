//! The end of a connection whose client is still sending. It has been answered, and told that nothing more is read (FIN). If the socket
//! were closed now, what comes yet would be answered with a reset, and a client that sees one loses the answer, or never looks for it: who
//! uploads too much would not be told so. So what comes is read, and dropped, until the client has seen the end, too.

use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{sleep, timeout},
};
use zectre_service::tasks::Shutdown;

/// Read at once.
const PIECE_BYTES: usize = 16 * 1024;

/// How long a client is heard out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// In all.
    whole: Duration,
    /// From one piece to the next: who sends nothing for longer has read what it was told, or never will.
    pause: Duration,
    /// Once the proxy is to stop.
    stop: Duration,
}

/// As long as nginx does.
pub(super) const PATIENCE: Patience = Patience {
    whole: Duration::from_secs(30),
    pause: Duration::from_secs(5),
    stop: Duration::from_secs(1),
};

/// Reads what comes, until the client ends, too.
pub(super) async fn linger(mut stream: impl AsyncRead + Unpin, patience: Patience, shutdown: &Shutdown) {
    let mut piece = vec![0; PIECE_BYTES];
    let reading = async { while let Ok(Ok(1..)) = timeout(patience.pause, stream.read(&mut piece)).await {} };
    let stops = async {
        shutdown.requested().await;
        sleep(patience.stop).await;
    };
    tokio::select! {
        _ = timeout(patience.whole, reading) => {}
        () = stops => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, duplex, repeat};

    /// Far longer than a test may take.
    const LONG: Duration = Duration::from_secs(3_600);
    const SHORT: Duration = Duration::from_millis(1);
    const ENDLESS: Patience = Patience {
        whole: LONG,
        pause: LONG,
        stop: LONG,
    };

    #[tokio::test]
    async fn it_ends_with_the_client_and_with_each_of_its_bounds() {
        let running = Shutdown::new();
        let (mut client, stream) = duplex(PIECE_BYTES / 2);
        let sends = async {
            let all = vec![b'x'; 10 * PIECE_BYTES];
            client.write_all(&all).await.expect("it is heard out");
            drop(client);
        };
        tokio::join!(linger(stream, ENDLESS, &running), sends);
        let (_silent, stream) = duplex(1);
        let pause = Patience {
            pause: SHORT,
            ..ENDLESS
        };
        linger(stream, pause, &running).await;
        let whole = Patience {
            whole: SHORT,
            ..ENDLESS
        };
        linger(repeat(b'x'), whole, &running).await;
        let (_silent, stream) = duplex(1);
        let stopping = Shutdown::new();
        stopping.request();
        let stop = Patience {
            stop: SHORT,
            ..ENDLESS
        };
        linger(stream, stop, &stopping).await;
    }
}
