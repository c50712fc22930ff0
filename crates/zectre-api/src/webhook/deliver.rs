//! The task that turns events into deliveries and sends them.

use super::{filter, retry, signature};
use crate::{
    context::Context,
    error::Error,
    fanout::Hint,
    identity::Actor,
    outside::{exchange::Answer, post},
    store::{
        change::Change,
        delivery::{self, Outcome, Room, Taken},
        event, webhook,
    },
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    time::Duration,
};
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, timeout},
};
use zectre_common::{
    id::{OrganizationId, WebhookId},
    state::DeliveryState,
    time::Time,
    wire::webhook::WebhookMessage,
};
use zectre_service::{key::random_bytes, seal, tasks::Shutdown};

/// Events that become deliveries in one transaction.
const EVENTS_BATCH: i64 = 200;
/// Deliveries under way at once,
const SENDING_MAX: usize = 32;
/// those of one organization: its slow receivers must not hold up another one's,
const SENDING_OF_ONE_MAX: usize = 8;
/// and those to one webhook: a slow one must not hold the others up.
const SENDING_EACH_MAX: usize = 4;
/// How often it is looked for what is due without being told.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// After news it is looked again this soon, then ever more rarely: an event shows once older transactions have ended.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// A delivery's lease outlives its attempt by so long; then whoever took it is taken for dead.
const LEASE_MARGIN: Duration = Duration::from_secs(30);
/// What is under way at the end may come to its end within this; the rest is sent by the next start.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Until the shutdown.
pub(crate) async fn run(context: Context, shutdown: Shutdown) {
    let actor = Actor::platform();
    let mut hints = context.fanout.subscribe();
    let mut sending = FuturesUnordered::new();
    let mut busy = Busy::default();
    let mut pause = PAUSE_MIN;
    while !shutdown.is_requested() {
        let looked = Instant::now();
        match look(&context, &busy).await {
            Ok(taken) => {
                for one in taken {
                    busy.take(&one);
                    sending.push(send(&context, &actor, one));
                }
            }
            Err(error) => tracing::warn!(%error, "webhooks could not be looked at; they will be again"),
        }
        let until = Instant::now() + pause;
        tokio::select! {
            () = shutdown.requested() => break,
            () = tokio::time::sleep_until(until) => pause = (pause * 2).min(LOOK_EVERY),
            () = context.redelivered.notified() => pause = PAUSE_MIN,
            () = news(&mut hints, looked + PAUSE_MIN) => pause = PAUSE_MIN,
            Some(ended) = sending.next() => busy.release(ended),
        }
    }
    let rest = async { while sending.next().await.is_some() {} };
    if timeout(STOP_GRACE, rest).await.is_err() {
        tracing::info!(
            "some webhooks did not answer in time; their deliveries are repeated by the next start"
        );
    }
}

/// News, not before `earliest`: where much happens one look answers for all of it.
async fn news(hints: &mut tokio::sync::broadcast::Receiver<Hint>, earliest: Instant) {
    loop {
        match hints.recv().await {
            Ok(Hint::Events) | Err(RecvError::Lagged(_)) => break,
            Ok(_) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
    tokio::time::sleep_until(earliest).await;
    while hints.try_recv().is_ok() {}
}

/// What is under way, by whose it is.
#[derive(Default)]
struct Busy {
    webhooks: HashMap<WebhookId, usize>,
    organizations: HashMap<OrganizationId, usize>,
}

impl Busy {
    fn take(&mut self, one: &Taken) {
        *self.webhooks.entry(one.webhook_id).or_default() += 1;
        *self.organizations.entry(one.organization).or_default() += 1;
    }

    fn release(&mut self, (webhook, organization): (WebhookId, OrganizationId)) {
        one_less(&mut self.webhooks, webhook);
        one_less(&mut self.organizations, organization);
    }

    fn all(&self) -> usize {
        self.webhooks.values().sum()
    }
}

fn one_less<K: Hash + Eq>(counted: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut n) = counted.entry(key) {
        *n.get_mut() -= 1;
        if *n.get() == 0 {
            n.remove();
        }
    }
}

/// Makes deliveries of what has happened, and takes those that are due.
async fn look(context: &Context, busy: &Busy) -> Result<Vec<Taken>, Error> {
    let pool = &context.pool;
    let concerns = |webhook: &delivery::Listening, event: &delivery::Happened| {
        event.organization == Some(webhook.organization)
            && (webhook.application.is_none() || webhook.application == event.application)
            && filter::matches(&webhook.events, &event.action)
    };
    while delivery::fan_out(pool, EVENTS_BATCH, concerns).await? as i64 == EVENTS_BATCH {}
    let free = SENDING_MAX.saturating_sub(busy.all());
    if free == 0 {
        return Ok(Vec::new());
    }
    // One that has something under way waits until that has ended: so it never has more than its share.
    let webhooks: Vec<WebhookId> = busy.webhooks.keys().copied().collect();
    let room = Room {
        most: free,
        most_each: SENDING_EACH_MAX,
        busy: &webhooks,
        most_of_one: SENDING_OF_ONE_MAX,
        under_way: &busy.organizations,
    };
    delivery::take_due(pool, &room, context.poster.timeout() + LEASE_MARGIN).await
}

/// Sends one, and writes down what came of it; whose it was.
async fn send(context: &Context, actor: &Actor, taken: Taken) -> (WebhookId, OrganizationId) {
    let began = Instant::now();
    let answer = attempt(context, &taken).await;
    if let Err(error) = settle(context, actor, &taken, answer, began.elapsed()).await {
        tracing::warn!(%error, delivery = %taken.id, "what a webhook answered could not be written down; it will be called again");
    }
    (taken.webhook_id, taken.organization)
}

/// Why there is no good answer.
enum Fault {
    /// Another attempt may go better.
    Failed(String),
    /// It can't be sent, now or later.
    Hopeless(String),
}

async fn attempt(context: &Context, taken: &Taken) -> Result<Answer, Fault> {
    if taken.attempts.unsigned_abs() > retry::ATTEMPTS_MAX {
        return Err(Fault::Hopeless("the last attempt was cut off".into()));
    }
    let event = event::get(&context.pool, taken.event_id)
        .await
        .map_err(|error| Fault::Failed(format!("the event could not be read ({error})")))?
        .ok_or_else(|| Fault::Hopeless("the event is not kept any more".into()))?;
    let message = WebhookMessage {
        kind: event.action.clone(),
        timestamp: event.time,
        data: event,
    };
    let body = serde_json::to_string(&message)
        .map_err(|error| Fault::Hopeless(format!("the event can't be written ({error})")))?;
    let headers = sign(context, taken, &body).map_err(Fault::Hopeless)?;
    let url = post::parse(&taken.url).map_err(|error| Fault::Hopeless(format!("the URL is {error}")))?;
    context
        .poster
        .post(&url, headers, body.into())
        .await
        .map_err(Fault::Failed)
}

fn sign(context: &Context, taken: &Taken, body: &str) -> Result<HeaderMap, String> {
    let secret = seal::open(
        &context.master_key,
        &seal::place::webhook(taken.webhook_id),
        &taken.secret,
    )
    .map_err(|error| format!("the webhook's secret can't be used: {error}"))?;
    let id = signature::message_id(taken.id);
    let unix_secs = Time::now().unix_ms().div_euclid(1_000);
    let signed = signature::sign(&secret, &id, unix_secs, body).ok_or("the webhook's secret is not one")?;
    let headers = [
        ("webhook-id", id),
        ("webhook-timestamp", unix_secs.to_string()),
        ("webhook-signature", signed),
    ];
    let header = |(name, value): (&'static str, String)| {
        let value = HeaderValue::from_str(&value).map_err(|error| error.to_string())?;
        Ok((HeaderName::from_static(name), value))
    };
    headers.into_iter().map(header).collect()
}

async fn settle(
    context: &Context,
    actor: &Actor,
    taken: &Taken,
    answer: Result<Answer, Fault>,
    duration: Duration,
) -> Result<(), Error> {
    let gone = matches!(&answer, Ok(answer) if answer.status == StatusCode::GONE);
    let outcome = outcome(taken, answer, duration);
    // The webhook before the delivery: whoever sees how that went finds the webhook as it left it.
    if outcome.state == DeliveryState::Delivered {
        webhook::succeeded(&context.pool, taken.webhook_id).await?;
        return delivery::attempted(&context.pool, taken, &outcome).await;
    }
    let failing = webhook::failed(&context.pool, taken.webhook_id).await?;
    delivery::attempted(&context.pool, taken, &outcome).await?;
    let Some((failures, failing_for)) = failing else {
        return Ok(());
    };
    let reason = if gone {
        "it answered 410 Gone".to_owned()
    } else if retry::gives_up(failures, failing_for) {
        let problem = outcome.problem.as_deref().unwrap_or("no good answer");
        format!(
            "the last {failures} attempts failed, over {} hours; the last one: {problem}",
            failing_for.as_secs() / 3_600
        )
    } else {
        return Ok(());
    };
    disable(context, actor, taken.webhook_id, &reason).await
}

async fn disable(context: &Context, actor: &Actor, id: WebhookId, reason: &str) -> Result<(), Error> {
    let mut change = Change::begin(&context.pool, actor).await?;
    let Some((url, about)) = webhook::disable(change.connection(), id, reason).await? else {
        return Ok(());
    };
    // A URL may hold a password of the receiver's: only its host is anyone's business.
    let host = post::parse(&url).ok();
    let host = host.as_ref().and_then(|url| url.host_str()).unwrap_or("?");
    let message = format!("the webhook at `{host}` is not called any more: {reason}");
    change.event("webhook.disabled", about, &message).await?;
    change.commit().await
}

fn outcome(taken: &Taken, answer: Result<Answer, Fault>, duration: Duration) -> Outcome {
    let jitter = f64::from(u32::from_le_bytes(random_bytes::<4>())) / f64::from(u32::MAX);
    let (answer, problem, hopeless, asked) = match answer {
        Ok(answer) => {
            let problem = (!answer.status.is_success()).then(|| format!("it answered {}", answer.status));
            let asked = answer.retry_after_secs.map(Duration::from_secs);
            (Some(answer), problem, false, asked)
        }
        Err(Fault::Failed(problem)) => (None, Some(problem), false, None),
        Err(Fault::Hopeless(problem)) => (None, Some(problem), true, None),
    };
    let pause = retry::retry_after(taken.attempts.unsigned_abs(), jitter, asked).filter(|_| !hopeless);
    let state = match (&problem, pause) {
        (None, _) => DeliveryState::Delivered,
        (Some(_), Some(_)) => DeliveryState::Pending,
        (Some(_), None) => DeliveryState::Failed,
    };
    Outcome {
        state,
        pause: pause.unwrap_or_default(),
        answer_status: answer.as_ref().map(|answer| answer.status.as_u16()),
        answer_body: answer.map(|answer| shown(&answer.body)),
        problem,
        duration,
    }
}

/// As text that PostgreSQL and terminals can hold.
fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(body)
        .chars()
        .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
        .collect()
}
