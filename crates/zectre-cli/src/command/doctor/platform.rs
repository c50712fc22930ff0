//! What the platform says of itself: its services, and what each node sees and can hold tasks to.

use super::Finding;
use crate::context::Context;
use zectre_client::collect;
use zectre_common::{
    state::{Eligibility, NodeStatus},
    wire::{cluster::ServiceStatus, node::Node},
};

pub(super) async fn look(context: &Context) -> Vec<Finding> {
    let url = context.api_url();
    let status = match context.client.cluster_status().await {
        Ok(status) => status,
        Err(error) if error.status() == Some(401) => {
            let (what, remedy) = if context.signed_in {
                ("does not take this sign-in any more", "Run `zectre login`.")
            } else {
                (
                    "answers, and you are not signed in to it",
                    "Run `zectre login`; on the machine of the platform, `zectre up` signs you in.",
                )
            };
            return vec![Finding::fail(format!("{url} {what}"), remedy)];
        }
        // The cluster's state is for its admins.
        Err(error) if error.status() == Some(403) => {
            return vec![
                Finding::ok(format!("{url} answers and knows you")),
                Finding::note(
                    "its services and nodes are shown to admins of the cluster only",
                    "Ask one of them to run `zectre doctor`; `zectre whoami` shows your rights.",
                ),
            ];
        }
        Err(error) => {
            let remedy = "Start the platform with `zectre up`, or name another one with --api-url.";
            let text = error.to_string();
            // The message ends with a remedy of its own.
            let what = text.split(". ").next().unwrap_or(&text).to_owned();
            return vec![Finding::fail(what, remedy)];
        }
    };
    let mut findings = vec![Finding::ok(format!("{url} answers (version {})", status.version))];
    findings.extend(status.services.iter().map(service));
    match collect(async |paging| context.client.nodes(paging).await).await {
        Ok(nodes) if nodes.is_empty() => findings.push(Finding::fail(
            "no node has joined, so nothing can run",
            "Start an agent: `zectre nodes join` says how.",
        )),
        Ok(nodes) => findings.extend(nodes.iter().flat_map(node)),
        Err(error) => findings.push(Finding::fail("the nodes can't be listed", error.to_string())),
    }
    findings
}

/// What a service says that only needs time.
const BEING_PREPARED: &str = "being prepared";

fn service(service: &ServiceStatus) -> Finding {
    let name = &service.name;
    if service.ready {
        return Finding::ok(format!("{name} is ready"));
    }
    let prepares = |reason: &String| reason.contains(BEING_PREPARED);
    if !service.reasons.is_empty() && service.reasons.iter().all(prepares) {
        return Finding::note(
            format!("{name} is getting ready ({})", service.reasons.join("; ")),
            "There is nothing to do: a deploy from source waits for it.",
        );
    }
    let remedy = if service.reasons.is_empty() {
        "Its log tells why.".into()
    } else {
        service.reasons.join("; ")
    };
    Finding::fail(format!("{name} is not ready"), remedy)
}

/// A node as it sees itself.
fn node(node: &Node) -> Vec<Finding> {
    let name = &node.name;
    if node.status == NodeStatus::Lost {
        return vec![Finding::fail(
            format!("node {name} is lost: it stopped answering"),
            format!(
                "Start zectre-agent on {} again, or look at its log; its tasks are replaced elsewhere.",
                node.address
            ),
        )];
    }
    let mut findings = vec![if node.eligibility == Eligibility::Eligible {
        Finding::ok(format!("node {name} is ready and takes tasks"))
    } else {
        Finding::note(
            format!("node {name} is {} and takes no new tasks", node.eligibility),
            format!("`zectre nodes uncordon {name}` ends that."),
        )
    }];
    findings.push(if node.container_enabled {
        Finding::ok(format!("node {name} runs containers"))
    } else {
        Finding::note(
            format!("node {name} runs no containers: it found no engine when it started"),
            "If images are to be deployed: once an engine runs there, start its agent (`zectre up`) again, with \
             [agent].container_enabled where it runs by itself.",
        )
    });
    let gaps = &node.enforcement.gaps;
    findings.push(if gaps.is_empty() {
        Finding::ok(format!("node {name} holds tasks to all their limits"))
    } else {
        Finding::note(
            format!("node {name} can't hold tasks to everything: {}", gaps.join("; ")),
            "Deploy there only what you trust, or correct what the node says.",
        )
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{doctor::Verdict, nodes::tests::node as sample};

    #[test]
    fn a_node_tells_of_containers_and_of_what_it_can_not_hold() {
        let mut one = sample("ready", "eligible", 0);
        let told = |one: &Node| -> Vec<(Verdict, String)> {
            node(one)
                .into_iter()
                .map(|finding| (finding.verdict, finding.what))
                .collect()
        };
        let said = told(&one);
        assert_eq!(said[1].0, Verdict::Note);
        assert!(said[1].1.contains("runs no containers"), "{said:?}");
        assert_eq!(said[2].0, Verdict::Ok);
        one.container_enabled = true;
        one.enforcement.gaps = vec!["cpu limits are not enforced".into()];
        let said = told(&one);
        assert_eq!(said[1].0, Verdict::Ok);
        assert_eq!(said[2].0, Verdict::Note);
        assert!(said[2].1.contains("cpu limits are not enforced"), "{said:?}");
        assert_eq!(told(&sample("lost", "eligible", 0))[0].0, Verdict::Fail);
    }
}
