//! `zectre domains …`: names of one's own for a project.

use crate::{
    args::{DomainArgs, DomainsCommand, NewDomainArgs, ProjectArgs},
    context::Context,
    error::CliError,
    output::Shown,
    project,
    table::{Table, age},
    terminal_text::harmless,
};
use zectre_client::{ClientError, collect};
use zectre_common::{
    state::DomainState,
    wire::{
        app::App,
        domain::{
            CertificateState, CreateCustomDomainRequest, CustomDomain, DomainCertificate, DomainVerification,
        },
    },
};

pub(crate) async fn run(command: &DomainsCommand, context: &Context) -> Result<Shown, CliError> {
    match command {
        DomainsCommand::Add(args) => add(context, args).await,
        DomainsCommand::List(args) => list(context, args).await,
        DomainsCommand::Rm(args) => remove(context, args).await,
        DomainsCommand::Verify(args) => verify(context, args).await,
    }
}

async fn add(context: &Context, args: &NewDomainArgs) -> Result<Shown, CliError> {
    let app = project::find(context, &args.project).await?;
    let request = CreateCustomDomainRequest {
        domain: args.domain.clone(),
        environment: args.env.clone(),
    };
    let made = context.client.create_custom_domain(app.id, &request).await?;
    Ok(context.output.value(&made, |made| {
        let output = context.output;
        let (name, place) = (&made.domain, &made.environment);
        let Some(verification) = &made.verification else {
            output.data(&made.url);
            return output.say(format!(
                "{name} leads to {place} of {}. Let it point at the proxies: CNAME to {}",
                app.name, made.target
            ));
        };
        output.say(format!(
            "{name} will lead to {place} of {}, once it is shown to be yours. Set in its DNS:\n",
            app.name
        ));
        records(made, verification).print(output);
        output.say(format!("\n{}", next(made, verification)));
    }))
}

/// What is to be set: the record that shows whose the name is, and the one that leads here.
fn records(domain: &CustomDomain, verification: &DomainVerification) -> Table {
    let mut table = Table::new(["type", "name", "value"]);
    let dns = &verification.dns;
    table.row([dns.kind.clone(), dns.name.clone(), dns.value.clone()]);
    table.row(["CNAME".into(), domain.domain.clone(), domain.target.clone()]);
    table
}

fn next(domain: &CustomDomain, verification: &DomainVerification) -> String {
    let name = &domain.domain;
    let alone = match verification.http {
        Some(_) => {
            "The TXT record is proof by itself; so is the CNAME (or an address of the proxies) while nobody else claims the \
             name."
        }
        None => "The TXT record is the proof; the CNAME (or an address of the proxies) leads requests here.",
    };
    let until = domain
        .expires_at
        .map_or_else(String::new, |at| format!(", until {at}"));
    format!(
        "{alone} It is looked for again and again{until}; `zectre domains verify {name}` looks at once, and says what is missing."
    )
}

async fn list(context: &Context, args: &ProjectArgs) -> Result<Shown, CliError> {
    let app = project::find(context, args).await?;
    let all = collect(async |paging| context.client.custom_domains(app.id, paging).await).await?;
    Ok(context.output.value(&all, |all| {
        let output = context.output;
        let mut table = Table::new(["domain", "environment", "state", "age", "certificate", "proof"]);
        for one in all {
            let proof = match (&one.verification, one.proof) {
                (Some(missing), _) => format!(
                    "set {} {} {}",
                    missing.dns.kind, missing.dns.name, missing.dns.value
                ),
                (None, proof) => proof.map_or_else(|| "-".into(), |proof| proof.to_string()),
            };
            table.row([
                one.domain.clone(),
                one.environment.clone(),
                one.state.to_string(),
                age(one.created_at),
                certificate(&one.certificate),
                proof,
            ]);
        }
        if table.is_empty() {
            return output.say(format!(
                "{} has no domains of its own yet. `zectre domains add shop.example.com` claims one.",
                app.name
            ));
        }
        table.print(output);
        if all.iter().any(|one| one.state == DomainState::Pending) {
            output.say("`zectre domains verify DOMAIN` says what is missing of a pending one.");
        }
    }))
}

/// `valid until 2026-12-24T…`, `ordered`, `failed: …`, with what is wrong with a renewal.
fn certificate(of: &DomainCertificate) -> String {
    let problem = of.problem.as_deref().map(harmless);
    match (of.state, of.valid_until, problem) {
        (CertificateState::Valid, Some(until), None) => format!("valid until {until}"),
        (CertificateState::Valid, Some(until), Some(problem)) => {
            format!("valid until {until}; the renewal fails: {problem}")
        }
        (CertificateState::Failed, _, Some(problem)) => format!("failed: {problem}"),
        (CertificateState::Ordered, ..) => "ordered".into(),
        _ => "-".into(),
    }
}

async fn verify(context: &Context, args: &DomainArgs) -> Result<Shown, CliError> {
    let app = project::find(context, &args.project).await?;
    let progress = context.output.progress(format!("Looking for {}", args.domain));
    let found = context.client.verify_custom_domain(app.id, &args.domain).await;
    drop(progress);
    let verified = found.map_err(|error| unknown(error, &app, &args.domain))?;
    Ok(context.output.value(&verified, |verified| {
        context.output.data(&verified.url);
        context.output.say(format!(
            "{} is verified and leads to {} of {}",
            verified.domain, verified.environment, app.name
        ));
    }))
}

async fn remove(context: &Context, args: &DomainArgs) -> Result<Shown, CliError> {
    let app = project::find(context, &args.project).await?;
    let answer = context.client.delete_custom_domain(app.id, &args.domain).await;
    answer.map_err(|error| unknown(error, &app, &args.domain))?;
    let removed = serde_json::json!({"project": app.name, "removed": args.domain});
    let remark = format!("Removed {}; it leads nowhere any more", args.domain);
    Ok(context.output.done(&removed, remark))
}

fn unknown(error: ClientError, app: &App, domain: &str) -> CliError {
    if error.code() != Some("DOMAIN_NOT_FOUND") {
        return error.into();
    }
    CliError::NotFound(format!(
        "{} has not claimed `{domain}`. `zectre domains list` shows its domains.",
        app.name
    ))
}
