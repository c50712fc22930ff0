//! What a call of GitHub's says, and whether it is GitHub's. Pure.

use super::order::{Moment, Seen};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::Value;
use sha2::Sha256;
use std::collections::BTreeMap;
use zectre_common::{git, time::Time};
use zectre_service::key::from_hex;

/// What `X-Hub-Signature-256` begins with.
const SIGNATURE_PREFIX: &str = "sha256=";
/// What a slug of a preview environment begins with; the pull request's number follows.
pub(crate) const PREVIEW_PREFIX: &str = "pr-";

/// The parts of a call that matter; of `push` and `pull_request` alike.
#[derive(Debug, Deserialize)]
pub(crate) struct Payload {
    pub(crate) repository: Option<Repository>,
    #[serde(default)]
    sender: Sender,
    #[serde(default, rename = "ref")]
    reference: String,
    #[serde(default)]
    before: String,
    #[serde(default)]
    after: String,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    action: String,
    pull_request: Option<PullRequest>,
}

/// A repository.
#[derive(Debug, Deserialize)]
pub(crate) struct Repository {
    pub(crate) clone_url: String,
    #[serde(default)]
    full_name: String,
    /// In a push: Unix seconds.
    #[serde(default)]
    pushed_at: Value,
}

#[derive(Debug, Default, Deserialize)]
struct Sender {
    #[serde(default)]
    login: String,
}

#[derive(Debug, Deserialize)]
struct PullRequest {
    number: u32,
    #[serde(default)]
    state: String,
    #[serde(default)]
    updated_at: Value,
    head: Head,
}

#[derive(Debug, Deserialize)]
struct Head {
    sha: String,
    /// None when the fork is gone.
    repo: Option<HeadRepository>,
}

#[derive(Debug, Deserialize)]
struct HeadRepository {
    full_name: String,
}

/// What an application's source says about calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes<'a> {
    pub(crate) branches: &'a BTreeMap<String, String>,
    pub(crate) auto_deploy: bool,
    pub(crate) previews: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Deploys the commit to an environment, which is there.
    Deploy { commit: String, environment: String },
    /// Deploys the commit to a pull request's environment, which is made unless it is there.
    Preview { commit: String, environment: String },
    /// The pull request is closed: its environment goes.
    Remove { environment: String },
    /// Nothing, and why.
    Nothing(String),
}

/// What `X-Hub-Signature-256` says; `None` for what can't be one.
pub(crate) fn signature(header: &str) -> Option<[u8; 32]> {
    header.strip_prefix(SIGNATURE_PREFIX).and_then(from_hex::<32>)
}

/// Whether the body was signed with the secret; in constant time.
pub(crate) fn is_signed(secret: &str, body: &[u8], signature: &[u8; 32]) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    mac.verify_slice(signature).is_ok()
}

impl Payload {
    /// Who caused it, as the feed names them.
    pub(crate) fn sender(&self) -> String {
        let login: String = self
            .sender
            .login
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || "-_[]".contains(*c))
            .take(64)
            .collect();
        format!("github:{login}")
    }

    /// What an event means for a source with these wishes.
    pub(crate) fn step(&self, event: &str, wishes: Wishes<'_>) -> Step {
        match event {
            "push" => self.push(wishes),
            "pull_request" => self.pull_request(wishes),
            "ping" => Step::Nothing("the webhook is set up well".into()),
            _ => Step::Nothing("only push and pull_request matter".into()),
        }
    }

    /// What the call says, and when, of a branch or pull request that the source follows; none where it doesn't say when.
    pub(crate) fn moment(&self, step: &Step, wishes: Wishes<'_>) -> Option<Moment> {
        let repository = self.repository.as_ref()?;
        let commit = |text: &str| {
            if git::is_commit(text) {
                text.to_owned()
            } else {
                String::new()
            }
        };
        match step {
            Step::Preview { environment, .. } | Step::Remove { environment } => {
                let request = self.pull_request.as_ref()?;
                Some(Moment {
                    subject: environment.clone(),
                    seen: Seen {
                        at: time(&request.updated_at)?,
                        before: commit(&self.before),
                        after: commit(&request.head.sha),
                        closed: matches!(step, Step::Remove { .. }),
                    },
                    reopens: self.action == "reopened",
                })
            }
            // A branch that is followed is seen also where nothing is done about it, such as when it is deleted.
            Step::Deploy { .. } | Step::Nothing(_) => {
                let branch = self.reference.strip_prefix("refs/heads/")?;
                wishes.branches.contains_key(branch).then_some(())?;
                Some(Moment {
                    subject: self.reference.clone(),
                    seen: Seen {
                        at: time(&repository.pushed_at)?,
                        before: commit(&self.before),
                        after: commit(&self.after),
                        closed: false,
                    },
                    reopens: false,
                })
            }
        }
    }

    fn push(&self, wishes: Wishes<'_>) -> Step {
        let Some(branch) = self.reference.strip_prefix("refs/heads/") else {
            return Step::Nothing("only pushes to branches are deployed".into());
        };
        if self.deleted {
            return Step::Nothing("the branch was deleted".into());
        }
        let Some(environment) = wishes.branches.get(branch) else {
            return Step::Nothing("the branch is mapped to no environment".into());
        };
        if !wishes.auto_deploy {
            return Step::Nothing("pushes are not deployed by themselves (auto_deploy)".into());
        }
        if !git::is_commit(&self.after) {
            return Step::Nothing("the push names no commit".into());
        }
        Step::Deploy {
            commit: self.after.clone(),
            environment: environment.clone(),
        }
    }

    fn pull_request(&self, wishes: Wishes<'_>) -> Step {
        let (Some(request), Some(repository)) = (&self.pull_request, &self.repository) else {
            return Step::Nothing("the call names no pull request".into());
        };
        let environment = format!("{PREVIEW_PREFIX}{}", request.number);
        // Whatever else: what a closed one left behind goes, also when the calls come in another order.
        if self.action == "closed" || request.state == "closed" {
            return Step::Remove { environment };
        }
        if !wishes.previews {
            return Step::Nothing("pull requests get no environments (previews)".into());
        }
        if !matches!(self.action.as_str(), "opened" | "reopened" | "synchronize") {
            return Step::Nothing("this changes no commit of the pull request".into());
        }
        // A stranger's program would run with the application's variables.
        let from = request.head.repo.as_ref().map(|from| from.full_name.as_str());
        if from.is_none_or(|from| !from.eq_ignore_ascii_case(&repository.full_name)) {
            return Step::Nothing("pull requests from forks are not deployed".into());
        }
        if !git::is_commit(&request.head.sha) {
            return Step::Nothing("the pull request names no commit".into());
        }
        Step::Preview {
            commit: request.head.sha.clone(),
            environment,
        }
    }
}

/// A time as GitHub writes them: Unix seconds in one place, RFC 3339 in another.
fn time(value: &Value) -> Option<Time> {
    match value {
        Value::Number(secs) => secs.as_i64()?.checked_mul(1_000).map(Time::from_unix_ms),
        text => Time::deserialize(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn step(event: &str, payload: Value, auto_deploy: bool, previews: bool) -> Step {
        let branches = BTreeMap::from([("main".to_owned(), "production".to_owned())]);
        let payload: Payload = serde_json::from_value(payload).expect("a payload");
        let wishes = Wishes {
            branches: &branches,
            auto_deploy,
            previews,
        };
        payload.step(event, wishes)
    }

    fn push(reference: &str, after: &str) -> Value {
        json!({ "ref": reference, "after": after, "deleted": after.starts_with("0000") })
    }

    fn pull_request(action: &str, state: &str, from: &str) -> Value {
        json!({
            "action": action,
            "repository": { "clone_url": "https://github.com/acme/shop.git", "full_name": "acme/shop" },
            "pull_request": { "number": 7, "state": state, "head": { "sha": COMMIT, "repo": { "full_name": from } } },
        })
    }

    #[test]
    fn a_push_to_a_mapped_branch_is_deployed() {
        let (commit, environment) = (COMMIT.to_owned(), "production".to_owned());
        assert_eq!(
            step("push", push("refs/heads/main", COMMIT), true, true),
            Step::Deploy { commit, environment }
        );
        let zeros = "0".repeat(40);
        for (reference, after, auto_deploy) in [
            ("refs/heads/other", COMMIT, true),
            ("refs/tags/main", COMMIT, true),
            ("refs/heads/main", zeros.as_str(), true),
            ("refs/heads/main", "--upload-pack=x", true),
            ("refs/heads/main", COMMIT, false),
            ("", "", true),
        ] {
            let got = step("push", push(reference, after), auto_deploy, true);
            assert!(matches!(got, Step::Nothing(_)), "{reference} {after}: {got:?}");
        }
    }

    #[test]
    fn a_pull_request_lives_and_dies_with_its_environment() {
        let environment = || "pr-7".to_owned();
        let preview = Step::Preview {
            commit: COMMIT.into(),
            environment: environment(),
        };
        for action in ["opened", "synchronize", "reopened"] {
            assert_eq!(
                step(
                    "pull_request",
                    pull_request(action, "open", "Acme/Shop"),
                    false,
                    true
                ),
                preview
            );
        }
        let remove = Step::Remove {
            environment: environment(),
        };
        // A late call of a closed one brings nothing back; and what is there goes although previews were switched off.
        for (action, previews) in [("closed", true), ("synchronize", true), ("closed", false)] {
            assert_eq!(
                step(
                    "pull_request",
                    pull_request(action, "closed", "acme/shop"),
                    true,
                    previews
                ),
                remove
            );
        }
        for (payload, previews) in [
            (pull_request("opened", "open", "mallory/shop"), true),
            (pull_request("labeled", "open", "acme/shop"), true),
            (pull_request("opened", "open", "acme/shop"), false),
            (json!({ "action": "opened" }), true),
        ] {
            let got = step("pull_request", payload, true, previews);
            assert!(matches!(got, Step::Nothing(_)), "{got:?}");
        }
    }

    #[test]
    fn only_the_secret_signs() {
        // GitHub's own example.
        let (secret, body) = ("It's a Secret to Everybody", b"Hello, World!");
        let good = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let given = signature(good).expect("it is one");
        assert!(is_signed(secret, body, &given));
        assert!(!is_signed("another", body, &given) && !is_signed(secret, b"Hello, World?", &given));
        for bad in [
            "",
            "sha256=",
            "sha1=757107ea0eb2509fc211221cce984b8a37570b6d",
            &good[7..],
            &good[..good.len() - 2],
        ] {
            assert_eq!(signature(bad), None, "{bad}");
        }
    }
}
