//! Every sealed value of the database: where it is, and what it is sealed for. There is no other list: a rotation of the
//! master keys seals anew what stands here, and nothing else.

use std::fmt::Display;

/// A variable of an application; `environment` none: of all.
pub fn variable(application: impl Display, environment: Option<&str>, key: &str) -> String {
    format!("env:{application}:{}:{key}", environment.unwrap_or("*"))
}

/// What signs the deliveries of a webhook.
pub fn webhook(id: impl Display) -> String {
    format!("webhook:{id}")
}

/// The token for an application's repository: the API seals it, and a build worker opens it.
pub fn source_token(application: impl Display) -> String {
    format!("source:{application}:token")
}

/// What signs the calls of an application's forge.
pub fn source_webhook(application: impl Display) -> String {
    format!("source:{application}:webhook")
}

/// The answer that is kept for a user's `Idempotency-Key`.
pub fn idempotency(user: impl Display, key: &str) -> String {
    format!("idempotency:{user}:{key}")
}

/// The private key of a certificate.
pub fn certificate(name: &str, id: impl Display) -> String {
    format!("certificate:{name}:{id}")
}

/// The private key of a certificate that is being ordered.
pub fn acme_order(name: &str) -> String {
    format!("acme order:{name}")
}

/// The credentials of an account at an ACME server.
pub fn acme_account(directory_url: &str) -> String {
    format!("acme account:{directory_url}")
}

/// How a column holds sealed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As `bytea`.
    Bytes,
    /// As a text in base64 within `jsonb`.
    JsonText,
}

/// A column of sealed values.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its table.
    pub table: &'static str,
    /// Its name.
    pub column: &'static str,
    /// What names a row in the context, as SQL: a text each.
    pub row: &'static [&'static str],
    /// What a row's value is sealed for, from those texts.
    pub context: fn(&[String]) -> String,
    /// How it holds them.
    pub form: Form,
}

/// All of them.
pub const COLUMNS: &[Column] = &[
    Column {
        table: "env_vars",
        column: "value",
        row: &["application_id::text", "coalesce(environment, '*')", "key"],
        context: |row| variable(&row[0], Some(&row[1]), &row[2]),
        form: Form::Bytes,
    },
    Column {
        table: "webhooks",
        column: "secret",
        row: &["id::text"],
        context: |row| webhook(&row[0]),
        form: Form::Bytes,
    },
    Column {
        table: "sources",
        column: "credential",
        row: &["application_id::text"],
        context: |row| source_token(&row[0]),
        form: Form::Bytes,
    },
    Column {
        table: "sources",
        column: "webhook_secret",
        row: &["application_id::text"],
        context: |row| source_webhook(&row[0]),
        form: Form::Bytes,
    },
    Column {
        table: "idempotency_keys",
        column: "body",
        row: &["user_id::text", "key"],
        context: |row| idempotency(&row[0], &row[1]),
        form: Form::JsonText,
    },
    Column {
        table: "certificates",
        column: "sealed_key",
        row: &["name", "id::text"],
        context: |row| certificate(&row[0], &row[1]),
        form: Form::Bytes,
    },
    Column {
        table: "acme_orders",
        column: "sealed_key",
        row: &["name"],
        context: |row| acme_order(&row[0]),
        form: Form::Bytes,
    },
    Column {
        table: "acme_accounts",
        column: "sealed_credentials",
        row: &["directory_url"],
        context: |row| acme_account(&row[0]),
        form: Form::Bytes,
    },
];

/// Columns of bytes that are not sealed, because they hold hashes: they are compared, and opened by nobody.
pub const HASHES: &[(&str, &str)] = &[
    ("api_keys", "hash"),
    ("cli_logins", "device_hash"),
    ("idempotency_keys", "request_hash"),
    ("inbound_webhooks", "body_hash"),
    ("invitations", "token_hash"),
    ("join_tokens", "hash"),
    ("password_resets", "token_hash"),
    ("users", "catalog_claims"),
];
