//! `zectre webhooks …`: programs outside that are told what happens.

use crate::{
    args::{NewWebhookArgs, WebhooksCommand},
    context::Context,
    error::CliError,
    output::Shown,
    project,
    table::{Table, age, or_dash, short},
};
use zectre_client::{Paging, collect};
use zectre_common::{
    state::DeliveryState,
    wire::webhook::{CreateWebhookRequest, Delivery, Webhook},
};

/// Of the deliveries that are searched for the one meant.
const SEARCHED_MAX: u32 = 100;

pub(crate) async fn run(command: &WebhooksCommand, context: &Context) -> Result<Shown, CliError> {
    match command {
        WebhooksCommand::List => list(context).await,
        WebhooksCommand::Add(args) => add(context, args).await,
        WebhooksCommand::Rm { webhook } => remove(context, webhook).await,
        WebhooksCommand::Deliveries { webhook, limit } => deliveries(context, webhook, *limit).await,
        WebhooksCommand::Redeliver { webhook, delivery } => {
            redeliver(context, webhook, delivery.as_deref()).await
        }
        WebhooksCommand::Enable { webhook } => enable(context, webhook).await,
    }
}

async fn list(context: &Context) -> Result<Shown, CliError> {
    let all = all(context).await?;
    Ok(context.output.value(&all, |all| {
        let mut table = Table::new(["id", "url", "events", "state", "age"]);
        for one in all {
            table.row([
                short(&one.id),
                one.url.clone(),
                one.events.join(" "),
                state(one),
                age(one.created_at),
            ]);
        }
        if table.is_empty() {
            return context
                .output
                .say("There are no webhooks yet. `zectre webhooks add https://…` makes one.");
        }
        table.print(context.output);
    }))
}

fn state(webhook: &Webhook) -> String {
    match (&webhook.disabled_reason, webhook.failing_since) {
        (Some(reason), _) => format!("disabled: {reason}"),
        (None, Some(since)) => format!("failing for {}", age(since)),
        (None, None) => "ok".into(),
    }
}

async fn add(context: &Context, args: &NewWebhookArgs) -> Result<Shown, CliError> {
    let app = match &args.project {
        Some(project) => Some(project::named(context, project).await?.id),
        None => None,
    };
    let request = CreateWebhookRequest {
        url: args.url.clone(),
        events: (!args.events.is_empty()).then(|| args.events.clone()),
        organization: args.org.clone(),
        application_id: app,
    };
    let made = context.client.create_webhook(&request).await?;
    Ok(context.output.value(&made, |made| {
        context.output.data(&made.secret);
        context.output.say(format!(
            "{} is told of {} from now on. Check `webhook-signature` with the secret above; it is not shown again.",
            made.webhook.url,
            made.webhook.events.join(", ")
        ));
    }))
}

async fn remove(context: &Context, text: &str) -> Result<Shown, CliError> {
    let webhook = find(context, text).await?;
    context.client.delete_webhook(webhook.id).await?;
    let remark = format!("Deleted the webhook at {}", webhook.url);
    Ok(context.output.done(&webhook, remark))
}

async fn enable(context: &Context, text: &str) -> Result<Shown, CliError> {
    let webhook = find(context, text).await?;
    let enabled = context.client.enable_webhook(webhook.id).await?;
    let remark = format!("{} is called again, with what happens from now on", enabled.url);
    Ok(context.output.done(&enabled, remark))
}

async fn deliveries(context: &Context, text: &str, limit: u32) -> Result<Shown, CliError> {
    let webhook = find(context, text).await?;
    let some = context
        .client
        .deliveries(webhook.id, Paging::first(limit))
        .await?
        .data;
    Ok(context.output.value(&some, |some| {
        let mut table = Table::new(["id", "what", "state", "attempts", "answer", "age"]);
        for one in some {
            table.row([
                short(&one.id),
                one.action.clone(),
                one.state.to_string(),
                one.attempts.to_string(),
                answer(one),
                age(one.created_at),
            ]);
        }
        if table.is_empty() {
            return context.output.say("It was not sent anything yet.");
        }
        table.print(context.output);
    }))
}

fn answer(delivery: &Delivery) -> String {
    match &delivery.problem {
        Some(problem) => problem.clone(),
        None => or_dash(delivery.answer_status),
    }
}

async fn redeliver(context: &Context, text: &str, delivery: Option<&str>) -> Result<Shown, CliError> {
    let webhook = find(context, text).await?;
    let some = context
        .client
        .deliveries(webhook.id, Paging::first(SEARCHED_MAX))
        .await?
        .data;
    let found = match delivery {
        Some(text) => one_of(&some, text, |one| one.id.to_string()),
        None => some.iter().find(|one| one.state != DeliveryState::Delivered),
    };
    let found = found.ok_or_else(|| {
        let id = short(&webhook.id);
        CliError::NotFound(match delivery {
            Some(text) => format!("the webhook has no delivery `{text}`. `zectre webhooks deliveries {id}` shows them."),
            None => format!("nothing that the webhook was sent failed. Name a delivery; `zectre webhooks deliveries {id}` shows them."),
        })
    })?;
    let again = context.client.redeliver(webhook.id, found.id).await?;
    let remark = format!("{} is sent to {} again", again.action, webhook.url);
    Ok(context.output.done(&again, remark))
}

async fn all(context: &Context) -> Result<Vec<Webhook>, CliError> {
    Ok(collect(async |paging| context.client.webhooks(paging).await).await?)
}

async fn find(context: &Context, text: &str) -> Result<Webhook, CliError> {
    let all = all(context).await?;
    let named = all.iter().find(|one| one.url == text);
    named
        .or_else(|| one_of(&all, text, |one| one.id.to_string()))
        .cloned()
        .ok_or_else(|| {
            CliError::NotFound(format!(
                "there is no webhook `{text}`. `zectre webhooks list` shows yours."
            ))
        })
}

/// The only one whose id is `text` or ends in it.
fn one_of<'a, T>(all: &'a [T], text: &str, id: impl Fn(&T) -> String) -> Option<&'a T> {
    let mut those = all
        .iter()
        .filter(|one| !text.is_empty() && id(one).ends_with(text));
    those.next().filter(|_| those.next().is_none())
}
