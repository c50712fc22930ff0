//! Streams that survive a lost connection: they go on after the last event they delivered.

use crate::{
    Client, ClientError, SseEvent,
    sse::{Parser, TooLong},
};
use http::Method;
use serde::de::DeserializeOwned;
use std::{collections::VecDeque, marker::PhantomData, time::Duration};
use tokio::time::Instant;
use zectre_common::wire::log::{LogLine, TaskLogLine};

/// The API sends a comment at least this often; a silent connection is a dead one.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often a stream is opened again without a new event in between.
const ATTEMPTS_MAX: u32 = 6;
/// The pause before it is opened again; doubled each time.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// The API ends a stream that has nothing more to say; one that ends this soon without a word has said it all.
const ENDED_AT_ONCE: Duration = Duration::from_secs(2);
/// The event by which the API may say that nothing will follow.
const END: &str = "end";

/// The event that ends a stream which the caller may not have any more.
const REFUSED: &str = "refused";

/// The event that only has an id: where the stream begins.
const POSITION: &str = "position";

/// Lines of one task or of a build.
pub type LogStream = EventStream<LogLine>;

/// Lines of all tasks of a deployment.
pub type TaskLogStream = EventStream<TaskLogLine>;

/// Events of one kind, in order, without gap or repeat.
#[derive(Debug)]
pub struct EventStream<T> {
    client: Client,
    path: String,
    query: Vec<(&'static str, String)>,
    last_event_id: Option<String>,
    connection: Option<reqwest_tls::Response>,
    parser: Parser,
    ready: VecDeque<SseEvent>,
    /// When the connection was opened, while it has delivered nothing.
    silent_since: Option<Instant>,
    attempts: u32,
    ended: bool,
    items: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> EventStream<T> {
    pub(crate) fn new(client: Client, path: String, query: Vec<(&'static str, String)>) -> Self {
        Self {
            client,
            path,
            query,
            last_event_id: None,
            connection: None,
            parser: Parser::default(),
            ready: VecDeque::new(),
            silent_since: None,
            attempts: 0,
            ended: false,
            items: PhantomData,
        }
    }

    /// Opens the connection, so that whatever happens from now on is in the stream.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn open(&mut self) -> Result<(), ClientError> {
        while self.connection.is_none() && !self.ended {
            self.connect().await?;
        }
        Ok(())
    }

    /// The next item; none once the API has said that nothing will follow. May be dropped and called again.
    ///
    /// # Errors
    /// The API refuses, or stays away for longer than the bounded number of attempts.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            while let Some(event) = self.ready.pop_front() {
                // Asked again, the API says so in an answer, as to any request.
                if event.kind == REFUSED {
                    self.connection = None;
                    break;
                }
                self.attempts = 0;
                self.silent_since = None;
                if event.id.is_some() {
                    self.last_event_id.clone_from(&event.id);
                }
                if event.kind == END {
                    self.ended = true;
                    return Ok(None);
                }
                if !event.data.is_empty() && event.kind != POSITION {
                    return self.parse(&event.data).map(Some);
                }
            }
            if self.ended {
                return Ok(None);
            }
            self.receive().await?;
        }
    }

    fn parse(&self, data: &str) -> Result<T, ClientError> {
        serde_json::from_str(data)
            .map_err(|error| self.protocol(format!("an event that can't be read: {error}")))
    }

    fn protocol(&self, what: String) -> ClientError {
        ClientError::Protocol {
            url: format!("{}/api/v1{}", self.client.base_url(), self.path),
            what,
        }
    }

    /// Reads the next bytes, opening the connection where there is none.
    async fn receive(&mut self) -> Result<(), ClientError> {
        if self.connection.is_none() && !self.connect().await? {
            return Ok(());
        }
        let connection = self
            .connection
            .as_mut()
            .expect("connect() left a connection, or it was there");
        match tokio::time::timeout(SILENCE_MAX, connection.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                let events = self.parser.feed(&bytes);
                self.ready
                    .extend(events.map_err(|TooLong| self.protocol("an event without end".into()))?);
            }
            Ok(Ok(None)) => {
                self.connection = None;
                self.ended = self
                    .silent_since
                    .is_some_and(|since| since.elapsed() < ENDED_AT_ONCE);
            }
            // Broken or silent: the next connection goes on where this one ended.
            Ok(Err(_)) | Err(_) => self.connection = None,
        }
        Ok(())
    }

    /// Opens a connection; false when it should be tried again.
    async fn connect(&mut self) -> Result<bool, ClientError> {
        if self.attempts > 0 {
            tokio::time::sleep(RETRY_PAUSE * 2_u32.pow(self.attempts - 1)).await;
        }
        self.attempts += 1;
        let mut request = self
            .client
            .request(Method::GET, &self.path)
            .query(&self.query)
            .header("accept", "text/event-stream");
        if let Some(id) = &self.last_event_id {
            request = request.header("last-event-id", id);
        }
        match self.client.open(request).await {
            // 204 is how a server tells a reader of events not to come back.
            Ok(response) if response.status() == http::StatusCode::NO_CONTENT => {
                self.ended = true;
                Ok(false)
            }
            Ok(response) => {
                self.parser = Parser::default();
                if self.attempts > ATTEMPTS_MAX {
                    return Err(self.protocol("the stream ends again and again".into()));
                }
                self.connection = Some(response);
                self.silent_since = Some(Instant::now());
                Ok(true)
            }
            Err(error) if error.is_passing() && self.attempts < ATTEMPTS_MAX => Ok(false),
            Err(error) => Err(error),
        }
    }
}
