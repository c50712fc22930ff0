//! A DNS server of the test's own: it knows the records that the test gives it, and nothing else.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};
use tokio::{net::UdpSocket, task::JoinSet};

const A: u16 = 1;
const TXT: u16 = 16;
const AAAA: u16 = 28;

/// Answers over UDP until it is dropped.
pub struct DnsServer {
    /// Where it listens.
    pub address: SocketAddr,
    records: Records,
    _answering: JoinSet<()>,
}

/// Of each name (lower case, without a last dot): type and data.
type Records = Arc<Mutex<HashMap<String, Vec<(u16, Vec<u8>)>>>>;

impl DnsServer {
    /// Starts one at a loopback address.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
        let address = socket.local_addr().expect("a socket has an address");
        let records = Records::default();
        let mut answering = JoinSet::new();
        answering.spawn(answer_all(socket, Arc::clone(&records)));
        Self {
            address,
            records,
            _answering: answering,
        }
    }

    /// Adds a TXT record of one string.
    pub fn add_txt(&self, name: &str, text: &str) {
        let mut data = vec![u8::try_from(text.len()).expect("a string of a record has at most 255 bytes")];
        data.extend_from_slice(text.as_bytes());
        self.add(name, TXT, data);
    }

    /// Adds an address.
    pub fn add_address(&self, name: &str, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.add(name, A, v4.octets().to_vec()),
            IpAddr::V6(v6) => self.add(name, AAAA, v6.octets().to_vec()),
        }
    }

    /// Forgets everything about a name.
    pub fn forget(&self, name: &str) {
        self.records.lock().expect("not poisoned").remove(name);
    }

    fn add(&self, name: &str, kind: u16, data: Vec<u8>) {
        let mut records = self.records.lock().expect("not poisoned");
        records.entry(name.to_owned()).or_default().push((kind, data));
    }
}

async fn answer_all(socket: UdpSocket, records: Records) {
    let mut buffer = [0; 1_500];
    loop {
        // An error is that of an earlier answer whose asker is gone.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let answer = answer(&buffer[..length], &records.lock().expect("not poisoned"));
        if let Some(answer) = answer {
            let _ = socket.send_to(&answer, peer).await;
        }
    }
}

/// The answer to one question (RFC 1035, section 4); `None` to what is none.
fn answer(query: &[u8], records: &HashMap<String, Vec<(u16, Vec<u8>)>>) -> Option<Vec<u8>> {
    let (name, rest) = read_name(query.get(12..)?)?;
    let question = &query[12..query.len() - rest.len() + 4];
    let kind = u16::from_be_bytes(rest.get(..2)?.try_into().ok()?);
    let known = records.get(&name);
    let found: Vec<_> = known
        .into_iter()
        .flatten()
        .filter(|(of, _)| *of == kind)
        .collect();
    let not_existing: u8 = if known.is_none() { 3 } else { 0 };
    let mut answer = query[..2].to_vec();
    // An answer, recursion wanted and available; one question, the answers, and nothing more.
    answer.extend([0x81, 0x80 | not_existing, 0, 1]);
    answer.extend((found.len() as u16).to_be_bytes());
    answer.extend([0, 0, 0, 0]);
    answer.extend_from_slice(question);
    for (kind, data) in found {
        // The question's name, class IN, not to be remembered.
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 0]);
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend_from_slice(data);
    }
    Some(answer)
}

/// The name at the start of `bytes`, in lower case, and what follows it.
fn read_name(mut bytes: &[u8]) -> Option<(String, &[u8])> {
    let mut labels = Vec::new();
    loop {
        let (&length, rest) = bytes.split_first()?;
        let (label, rest) = rest.split_at_checked(length.into())?;
        bytes = rest;
        if label.is_empty() {
            return Some((labels.join("."), bytes));
        }
        labels.push(String::from_utf8_lossy(label).to_lowercase());
    }
}
