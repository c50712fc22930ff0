//! What the registry says when it refuses: the API hands these words on as they are.

use crate::harness::{Registry, hex};

#[tokio::test]
async fn what_is_refused_says_why_and_what_to_do() {
    let registry = Registry::start(100).await;
    let id = registry.announce("a").await;
    let download = format!("/api/v1/artifacts/{id}/download");
    let other = registry
        .upload(id, "content")
        .header("x-content-sha256", hex(b"other"));
    registry.shows(other, "HASH_MISMATCH").await;
    let odd = registry
        .upload(id, "content")
        .header("digest", "sha-256=nonsense");
    registry.shows(odd, "INVALID_DIGEST").await;
    let large = registry.upload(id, vec![1_u8; 101]);
    registry.shows(large, "ARTIFACT_TOO_LARGE").await;
    registry.upload(id, "content").send().await.expect("it answers");
    let behind = registry.get(&download).header("range", "bytes=9999-");
    registry.shows(behind, "RANGE_NOT_SATISFIABLE").await;
    registry.lose(&hex(b"content"));
    registry.shows(registry.get(&download), "ARTIFACT_MISSING").await;
}
