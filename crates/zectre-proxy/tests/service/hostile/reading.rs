//! A second reader of HTTP/1.1, as strict as RFC 9112 allows and written without a look at the first: what the proxy
//! and a server made of some bytes is held against what this makes of them.

use std::fmt;

/// A request, as somebody understood it.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) host: String,
    pub(crate) body: Vec<u8>,
    pub(crate) chunked: bool,
    /// Its `X-Request-Id`.
    pub(crate) id: String,
    /// No request follows on this connection.
    pub(crate) last: bool,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// How a row of messages ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With a whole message.
    Clean,
    /// In the middle of one.
    Cut,
    /// With bytes that are no HTTP.
    Bad,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            method,
            target,
            host,
            body,
            id,
            ..
        } = self;
        write!(f, "<{method} {target} {host} {id} \"{}\">", body.escape_ascii())
    }
}

impl fmt::Debug for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}", self.status)?;
        for (name, value) in &self.headers {
            write!(f, " {name}={value:?}")?;
        }
        write!(f, " \"{}\">", self.body.escape_ascii())
    }
}

impl Answered {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(known, _)| known == name);
        named.next().map(|(_, value)| value.as_str())
    }

    /// What a server of ours says it understood.
    pub(crate) fn echo(&self) -> Option<Asked> {
        let end = self.body.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&self.body[..end]).ok()?;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, target, host, id) = (words.next()?, words.next()?, words.next()?, words.next()?);
        Some(Asked {
            method,
            target,
            host,
            body: self.body[end + 1..].to_vec(),
            id,
            ..Asked::default()
        })
    }
}

/// All requests of a connection, and how it ends.
pub(crate) fn requests(bytes: &[u8]) -> (Vec<Asked>, End) {
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        while bytes[at..].starts_with(b"\r\n") {
            at += 2;
        }
        if at == bytes.len() {
            return (all, End::Clean);
        }
        match request(&bytes[at..]) {
            Ok((asked, length)) => {
                at += length;
                let last = asked.last;
                all.push(asked);
                if last {
                    return (all, End::Clean);
                }
            }
            Err(end) => return (all, end),
        }
    }
}

/// All answers of a connection to requests of `methods`, and how it ends.
pub(crate) fn answers(bytes: &[u8], methods: &[&str]) -> (Vec<Answered>, End) {
    let (mut all, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let method = methods.get(all.len()).copied().unwrap_or("GET");
        match answer(&bytes[at..], method) {
            Ok((answered, length)) => {
                at += length;
                if answered.status >= 200 {
                    all.push(answered);
                }
            }
            Err(end) => return (all, end),
        }
    }
    (all, End::Clean)
}

fn request(bytes: &[u8]) -> Result<(Asked, usize), End> {
    let (first, headers, mut at) = head(bytes)?;
    let words: Vec<_> = first.split(' ').collect();
    let &[method, target, version] = words.as_slice() else {
        return Err(End::Bad);
    };
    let old = match version {
        "HTTP/1.1" => false,
        "HTTP/1.0" => true,
        _ => return Err(End::Bad),
    };
    if !is_token(method) || target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(End::Bad);
    }
    let all = |name: &str| -> Vec<&str> {
        let named = headers.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| value.as_str()).collect()
    };
    let chunked = match (
        all("transfer-encoding").as_slice(),
        all("content-length").is_empty(),
    ) {
        ([], _) => false,
        ([only], true) if only.eq_ignore_ascii_case("chunked") && !old => true,
        _ => return Err(End::Bad),
    };
    let (body, length) = if chunked {
        chunks(&bytes[at..])?
    } else {
        sized(&bytes[at..], &all("content-length"))?
    };
    at += length;
    let connection = all("connection").join(",").to_ascii_lowercase();
    let says = |word: &str| connection.split(',').any(|option| option.trim() == word);
    let asked = Asked {
        method: method.into(),
        target: target.into(),
        host: match all("host").as_slice() {
            [host] => (*host).into(),
            _ => String::new(),
        },
        body,
        chunked,
        id: all("x-request-id").concat(),
        last: says("close") || (old && !says("keep-alive")),
    };
    Ok((asked, at))
}

fn answer(bytes: &[u8], method: &str) -> Result<(Answered, usize), End> {
    let (first, headers, mut at) = head(bytes)?;
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| first.strip_prefix("HTTP/1.0 "))
        .and_then(|rest| rest.get(..3))
        .and_then(|digits| digits.parse().ok())
        .ok_or(End::Bad)?;
    let mut answered = Answered {
        status,
        headers,
        body: Vec::new(),
    };
    if method == "HEAD" || status < 200 || status == 204 || status == 304 {
        return Ok((answered, at));
    }
    let rest = &bytes[at..];
    let (body, length) = match (
        answered.header("transfer-encoding"),
        answered.header("content-length"),
    ) {
        (Some("chunked"), None) => chunks(rest)?,
        (None, Some(length)) => sized(rest, &[length])?,
        // Until the connection ends.
        (None, None) => (rest.to_vec(), rest.len()),
        _ => return Err(End::Bad),
    };
    at += length;
    answered.body = body;
    Ok((answered, at))
}

type Head = (String, Vec<(String, String)>, usize);

fn head(bytes: &[u8]) -> Result<Head, End> {
    let (first, mut at) = line(bytes)?;
    let mut headers = Vec::new();
    loop {
        let (line, length) = line(&bytes[at..])?;
        at += length;
        if line.is_empty() {
            return Ok((first, headers, at));
        }
        headers.push(field(&line)?);
    }
}

/// A line and its length with its end. Bytes beyond ASCII become `\u{80}` and up.
fn line(bytes: &[u8]) -> Result<(String, usize), End> {
    let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n' | 0));
    let end = end.ok_or(End::Cut)?;
    match &bytes[end..] {
        [b'\r'] => Err(End::Cut),
        [b'\r', b'\n', ..] => Ok((
            bytes[..end].iter().map(|byte| char::from(*byte)).collect(),
            end + 2,
        )),
        _ => Err(End::Bad),
    }
}

fn field(line: &str) -> Result<(String, String), End> {
    let (name, value) = line.split_once(':').ok_or(End::Bad)?;
    let value = value.trim_matches([' ', '\t']);
    let is_text = |char: char| char == '\t' || (char >= ' ' && char != '\u{7f}');
    if !is_token(name) || !value.chars().all(is_text) {
        return Err(End::Bad);
    }
    Ok((name.to_ascii_lowercase(), value.into()))
}

fn is_token(word: &str) -> bool {
    const MARKS: &[u8] = b"!#$%&'*+-.^_`|~";
    !word.is_empty()
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || MARKS.contains(&byte))
}

fn sized(bytes: &[u8], lengths: &[&str]) -> Result<(Vec<u8>, usize), End> {
    let length = match lengths {
        [] => 0,
        [digits] if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map_err(|_| End::Bad)?
        }
        _ => return Err(End::Bad),
    };
    let body = bytes.get(..length).ok_or(End::Cut)?;
    Ok((body.to_vec(), length))
}

fn chunks(bytes: &[u8]) -> Result<(Vec<u8>, usize), End> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let (line, length) = line(&bytes[at..])?;
        at += length;
        let size = line
            .split(';')
            .next()
            .unwrap_or_default()
            .trim_end_matches([' ', '\t']);
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(End::Bad);
        }
        let size = usize::from_str_radix(size, 16).map_err(|_| End::Bad)?;
        if size == 0 {
            break;
        }
        let end = at.checked_add(size).ok_or(End::Bad)?;
        body.extend_from_slice(bytes.get(at..end).ok_or(End::Cut)?);
        match &bytes[end..] {
            [] | [b'\r'] => return Err(End::Cut),
            [b'\r', b'\n', ..] => at = end + 2,
            _ => return Err(End::Bad),
        }
    }
    loop {
        let (line, length) = line(&bytes[at..])?;
        at += length;
        if line.is_empty() {
            return Ok((body, at));
        }
        field(&line)?;
    }
}
