//! Server-Sent Events, bytes in and events out; no I/O here.

/// The longest event: a log line is at most 16 KiB, and JSON may write a byte as six.
const EVENT_BYTES_MAX: usize = 256 * 1024;

/// One event of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// What to send as `Last-Event-ID` to go on after this event; none when the event had no id.
    pub id: Option<String>,
    /// Its kind; `message` when it had none.
    pub kind: String,
    /// Its data, lines joined.
    pub data: String,
}

/// An event longer than any that the API sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Collects bytes until they make an event.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    pending: Vec<u8>,
    event: SseEvent,
    has_data: bool,
}

impl Parser {
    /// Takes the next bytes of the stream and gives the events that they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, TooLong> {
        self.pending.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(length) = self.pending[start..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.pending[start..start + length]).into_owned();
            start += length + 1;
            events.extend(self.line(line.strip_suffix('\r').unwrap_or(&line)));
        }
        self.pending.drain(..start);
        if self.pending.len() + self.event.data.len() > EVENT_BYTES_MAX {
            Err(TooLong)
        } else {
            Ok(events)
        }
    }

    fn line(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            let has_data = std::mem::take(&mut self.has_data);
            let mut event = std::mem::take(&mut self.event);
            if event.kind.is_empty() {
                event.kind = "message".into();
            }
            return has_data.then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            "id" => self.event.id = Some(value.into()),
            "event" => self.event.kind = value.into(),
            // Comments keep the connection open; `retry` is ours to decide.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: Option<&str>, kind: &str, data: &str) -> SseEvent {
        SseEvent {
            id: id.map(Into::into),
            kind: kind.into(),
            data: data.into(),
        }
    }

    const TEXT: &[u8] = b": hello\n\nid: 7\nevent: log\ndata: {\"a\":1}\n\nid:8\r\ndata: x\r\ndata: y\r\n\r\nevent: end\ndata:\n\n";

    #[test]
    fn any_split_of_the_bytes_gives_the_same_events() {
        let expected = vec![
            event(Some("7"), "log", "{\"a\":1}"),
            event(Some("8"), "message", "x\ny"),
            event(None, "end", ""),
        ];
        for size in 1..TEXT.len() {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for chunk in TEXT.chunks(size) {
                events.extend(parser.feed(chunk).expect("short"));
            }
            assert_eq!(events, expected, "chunks of {size}");
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = Parser::default();
        let line = vec![b'x'; EVENT_BYTES_MAX + 1];
        assert_eq!(parser.feed(&line), Err(TooLong));
    }
}
