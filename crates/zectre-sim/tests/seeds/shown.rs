//! Which tests produce each reason code on real processes. They are held to be there and to name the code, and so is its row in
//! docs/REASONS.md.

use crate::{Source, source};
use std::{fs, path::Path};
use zectre_common::state::Reason;

const AGENT: &str = "crates/zectre-agent/tests/service";
const BUILD: &str = "crates/zectre-build/tests/service";
const SCHEDULER: &str = "crates/zectre-scheduler/tests/service";
const E2E: &str = "tests/e2e";

/// A code, and where it is asserted: directory, file, function.
type Shown = (Reason, &'static str, &'static str, &'static str);

#[rustfmt::skip]
const SHOWN: &[Shown] = &[
    (Reason::ImageNotFound, AGENT, "container", "an_absent_tag_is_told"),
    (Reason::ImagePullFailed, AGENT, "container", "a_registry_that_falters_is_asked_again"),
    (Reason::ImagePullFailed, AGENT, "container", "what_the_engine_refuses_is_told"),
    (Reason::ArtifactMissing, AGENT, "native", "artifacts_are_fetched_once_and_verified"),
    (Reason::ArtifactMissing, BUILD, "building", "a_source_that_is_gone_is_named"),
    (Reason::ArtifactCorrupt, AGENT, "native", "artifacts_are_fetched_once_and_verified"),
    (Reason::NoCapacity, E2E, "bad_input", "rollouts_that_can_not_succeed_say_why"),
    (Reason::NoEligibleNode, E2E, "bad_input", "rollouts_that_can_not_succeed_say_why"),
    (Reason::PortNeverOpened, AGENT, "native", "each_way_to_fail_has_its_reason"),
    (Reason::PortTaken, AGENT, "native", "a_port_that_is_held_is_refused"),
    (Reason::PortTaken, AGENT, "container", "what_the_engine_refuses_is_told"),
    (Reason::HealthCheckFailed, AGENT, "native", "each_way_to_fail_has_its_reason"),
    (Reason::Exited, AGENT, "native", "each_way_to_fail_has_its_reason"),
    (Reason::OomKilled, AGENT, "native", "a_task_that_needs_too_much_memory_is_named"),
    (Reason::OomKilled, AGENT, "container", "containers_go_the_way_of_all_tasks"),
    (Reason::OomKilled, BUILD, "lifecycle", "a_build_that_needs_too_much_memory_is_told_how_much_it_may_have"),
    (Reason::MaxRuntime, AGENT, "native", "each_way_to_fail_has_its_reason"),
    (Reason::NodeLost, SCHEDULER, "cluster", "the_tasks_of_a_lost_node_move"),
    (Reason::StartFailed, AGENT, "native", "each_way_to_fail_has_its_reason"),
    (Reason::StartFailed, AGENT, "container", "what_the_engine_refuses_is_told"),
    (Reason::CrashLoop, E2E, "orchestration", "what_ends_with_zero_is_done_and_what_fails_is_started_again"),
    (Reason::ProgressDeadline, E2E, "bad_input", "rollouts_that_can_not_succeed_say_why"),
    (Reason::BuildFailed, E2E, "bad_input", "mistakes_in_sources_and_manifests_are_shown_where_they_are"),
    (Reason::CompileError, BUILD, "building", "mistakes_are_shown_with_the_users_file_and_line"),
    (Reason::InvalidSource, BUILD, "building", "bad_sources_are_refused_with_a_sentence"),
    (Reason::QuotaExceeded, BUILD, "building", "a_program_that_its_organization_has_no_room_for_is_not_kept"),
    (Reason::BuildTimeout, BUILD, "lifecycle", "a_build_that_takes_too_long_is_killed"),
    (Reason::BuildWorkerFailed, BUILD, "lifecycle", "a_build_that_workers_die_of_is_given_up"),
    (Reason::Superseded, E2E, "bad_input", "rollouts_that_can_not_succeed_say_why"),
    (Reason::Cancelled, E2E, "bad_input", "rollouts_that_can_not_succeed_say_why"),
    (Reason::Cancelled, BUILD, "lifecycle", "the_sandbox_holds_and_a_cancelled_build_is_killed"),
    (Reason::Stopped, AGENT, "orders", "an_orderly_end_can_stop_the_tasks_too"),
    (Reason::Idle, E2E, "orchestration", "an_idle_deployment_sleeps_and_the_next_request_wakes_it_once"),
    (Reason::VolumeRefused, AGENT, "native", "each_way_to_fail_has_its_reason"),
    (Reason::EngineFailed, AGENT, "container", "an_engine_comes_goes_and_comes_again"),
    (Reason::Internal, AGENT, "faults", "what_the_node_can_not_do_is_told_as_its_own_fault"),
    (Reason::Internal, SCHEDULER, "cluster", "variables_that_the_scheduler_cannot_open_are_a_fault_of_the_platform"),
];

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_reason_code_has_a_test_that_produces_it() {
    for reason in Reason::ALL {
        let mut places = SHOWN.iter().filter(|shown| shown.0 == *reason);
        assert!(places.clone().next().is_some(), "no test produces {reason}");
        // What only an agent or a build worker finds out is shown by one.
        let is_theirs = places.any(|(_, place, ..)| [AGENT, BUILD].contains(place));
        assert!(is_theirs || source(*reason) != Source::Outside, "{reason}");
    }
    for (reason, place, file, function) in SHOWN {
        let path = format!("{place}/{file}.rs");
        let text = read(&path);
        let begin = text.find(&format!("fn {function}("));
        let begin = begin.unwrap_or_else(|| panic!("{reason}: there is no {function} in {path}"));
        let body = &text[begin..];
        let body = &body[..body.find("\n}\n").unwrap_or(body.len())];
        let names = [format!("Reason::{reason:?}"), format!("\"{reason}\"")];
        assert!(
            names.iter().any(|name| body.contains(name)),
            "{function} in {path} does not name {reason}"
        );
    }
}

#[test]
fn every_reason_code_is_explained_once() {
    let page = read("docs/REASONS.md");
    for reason in Reason::ALL {
        let row = format!("| `{reason}` | ");
        let rows = page.lines().filter(|line| line.starts_with(&row)).count();
        assert_eq!(rows, 1, "{reason} in docs/REASONS.md");
    }
    let rows = page.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, Reason::ALL.len(), "rows of codes that there are none of");
}
