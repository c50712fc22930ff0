//! Content out, and who gets it.

use crate::harness::{Registry, hex};
use reqwest::StatusCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zectre_common::wire::artifact::StoredArtifact;
use zectre_service::{key::ServiceKey, signed_url};
use zectre_testkit::METRICS_TOKEN;

fn in_secs(secs: i64) -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    now.saturating_add_signed(secs)
}

#[tokio::test]
async fn content_comes_back_by_id_and_by_signed_url() {
    let registry = Registry::start(1 << 20).await;
    let id = registry.announce("hello").await;
    let content = b"hello, registry".to_vec();
    let answer = registry
        .upload(id, content.clone())
        .header("x-content-sha256", hex(&content))
        .send()
        .await;
    let answer = answer.expect("it answers");
    assert_eq!(answer.status(), StatusCode::OK);
    let stored: StoredArtifact = answer.json().await.expect("json");
    assert_eq!(
        (stored.id, stored.size, stored.sha256.as_str()),
        (id, 15, hex(&content).as_str())
    );
    assert_eq!(
        registry.row(id).await,
        ("ready".into(), Some(hex(&content)), Some(15))
    );

    let by_id = registry
        .get(&format!("/api/v1/artifacts/{id}/download"))
        .send()
        .await
        .expect("it answers");
    assert_eq!(by_id.headers()["content-type"], "application/octet-stream");
    assert_eq!(by_id.headers()["etag"], format!("\"{}\"", hex(&content)).as_str());
    assert_eq!(by_id.bytes().await.expect("whole"), content);

    let url = signed_url::sign(&registry.key, &hex(&content), "hello", in_secs(60));
    let signed = registry.anonymous(&url).send().await.expect("it answers");
    assert_eq!(signed.status(), StatusCode::OK);
    assert_eq!(
        signed.headers()["cache-control"],
        "private, max-age=31536000, immutable"
    );
    assert_eq!(signed.bytes().await.expect("whole"), content);
    assert_eq!(registry.left_in_tmp(), 0);
}

#[tokio::test]
async fn ranges_and_conditions() {
    let registry = Registry::start(1 << 20).await;
    let id = registry.announce("a").await;
    let content: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    registry
        .upload(id, content.clone())
        .send()
        .await
        .expect("it answers");
    let path = format!("/api/v1/artifacts/{id}/download");
    let etag = format!("\"{}\"", hex(&content));

    let part = registry
        .get(&path)
        .header("range", "bytes=100-199")
        .send()
        .await
        .expect("it answers");
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], "bytes 100-199/10000");
    assert_eq!(part.headers()["content-length"], "100");
    assert_eq!(part.bytes().await.expect("whole"), content[100..200]);

    let tail = registry
        .get(&path)
        .header("range", "bytes=-5")
        .send()
        .await
        .expect("it answers");
    assert_eq!(tail.bytes().await.expect("whole"), content[9_995..]);

    let outside = registry
        .get(&path)
        .header("range", "bytes=10000-")
        .send()
        .await
        .expect("it answers");
    assert_eq!(outside.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(outside.headers()["content-range"], "bytes */10000");

    let stale = registry
        .get(&path)
        .header("range", "bytes=0-9")
        .header("if-range", "\"old\"")
        .send()
        .await;
    assert_eq!(
        stale.expect("it answers").status(),
        StatusCode::OK,
        "everything, not a part of something else"
    );

    let same = registry
        .get(&path)
        .header("if-none-match", &etag)
        .send()
        .await
        .expect("it answers");
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
    assert!(same.bytes().await.expect("empty").is_empty());

    let head = registry.head(&path).send().await.expect("it answers");
    assert_eq!(
        (head.status(), &head.headers()["content-length"]),
        (StatusCode::OK, &"10000".parse().expect("a value"))
    );
    assert!(head.bytes().await.expect("empty").is_empty());
}

#[tokio::test]
async fn signatures_are_for_one_content_and_a_while() {
    let registry = Registry::start(1 << 20).await;
    let id = registry.announce("a").await;
    registry.upload(id, "content").send().await.expect("it answers");
    let hash = hex(b"content");

    let expired = signed_url::sign(&registry.key, &hash, "a", in_secs(-10));
    registry
        .refused(
            registry.anonymous(&expired),
            StatusCode::FORBIDDEN,
            "SIGNATURE_INVALID",
        )
        .await;
    let forged = signed_url::sign(&ServiceKey::from_bytes([9; 32]), &hash, "a", in_secs(60));
    registry
        .refused(
            registry.anonymous(&forged),
            StatusCode::FORBIDDEN,
            "SIGNATURE_INVALID",
        )
        .await;
    let good = signed_url::sign(&registry.key, &hash, "a", in_secs(60));
    let stretched = good.replace(&in_secs(60).to_string(), &in_secs(6_000).to_string());
    registry
        .refused(
            registry.anonymous(&stretched),
            StatusCode::FORBIDDEN,
            "SIGNATURE_INVALID",
        )
        .await;
    let moved = good.replace(&hash, &hex(b"other"));
    registry
        .refused(
            registry.anonymous(&moved),
            StatusCode::FORBIDDEN,
            "SIGNATURE_INVALID",
        )
        .await;
    let bare = format!("/artifacts/{hash}/a");
    registry
        .refused(
            registry.anonymous(&bare),
            StatusCode::UNAUTHORIZED,
            "UNAUTHENTICATED",
        )
        .await;

    let gone = signed_url::sign(&registry.key, &hex(b"never uploaded"), "a", in_secs(60));
    registry
        .refused(
            registry.anonymous(&gone),
            StatusCode::NOT_FOUND,
            "ARTIFACT_MISSING",
        )
        .await;
}

#[tokio::test]
async fn odd_paths_are_refused() {
    let registry = Registry::start(1 << 20).await;
    let key = &registry.key;
    // The signature is good for each of these: the path itself must be refused.
    for sha256 in ["..%2f..%2fetc%2fpasswd", "ABCDEF", &hex(b"x").to_uppercase()] {
        let plain = sha256.replace("%2f", "/");
        let query = signed_url::sign(key, &plain, "a", in_secs(60));
        let query = query.rsplit_once('?').expect("it has a query").1;
        let request = registry.anonymous(&format!("/artifacts/{sha256}/a?{query}"));
        registry
            .refused(request, StatusCode::BAD_REQUEST, "INVALID_DIGEST")
            .await;
    }
    let query = signed_url::sign(key, &hex(b"x"), "a", in_secs(60));
    let query = query.rsplit_once('?').expect("it has a query").1;
    for name in ["..%2f..%2fpasswd", "%2e%2e%2f", "a%00b", "a%20b"] {
        let request = registry.anonymous(&format!("/artifacts/{}/{name}?{query}", hex(b"x")));
        registry
            .refused(request, StatusCode::BAD_REQUEST, "INVALID_NAME")
            .await;
    }
    let odd = registry.get("/api/v1/artifacts/not-an-id/download");
    registry
        .refused(odd, StatusCode::BAD_REQUEST, "INVALID_PATH")
        .await;
    let unknown = uuid::Uuid::now_v7();
    registry
        .refused(
            registry.upload(zectre_common::id::ArtifactId::from_uuid(unknown), "x"),
            StatusCode::NOT_FOUND,
            "ARTIFACT_NOT_FOUND",
        )
        .await;
}

#[tokio::test]
async fn bytes_that_are_gone_are_named() {
    let registry = Registry::start(1 << 20).await;
    let id = registry.announce("a").await;
    registry.upload(id, "content").send().await.expect("it answers");
    registry.lose(&hex(b"content"));
    let download = registry.get(&format!("/api/v1/artifacts/{id}/download"));
    registry
        .refused(download, StatusCode::NOT_FOUND, "ARTIFACT_MISSING")
        .await;
    let again = registry.upload(id, "content").send().await.expect("it answers");
    assert_eq!(again.status(), StatusCode::OK, "the same content heals it");
    let download = registry
        .get(&format!("/api/v1/artifacts/{id}/download"))
        .send()
        .await
        .expect("it answers");
    assert_eq!(download.bytes().await.expect("whole"), "content");
}

#[tokio::test]
async fn unreferred_content_is_swept_once_it_is_old() {
    let registry = Registry::start(1 << 20).await;
    let (kept, deleted) = (
        registry.announce("kept").await,
        registry.announce("deleted").await,
    );
    registry.upload(kept, "kept").send().await.expect("it answers");
    registry
        .upload(deleted, "deleted")
        .send()
        .await
        .expect("it answers");
    registry.delete_row(deleted).await;
    assert_eq!(
        registry.sweep(SystemTime::now() - Duration::from_secs(60)).await,
        0,
        "too young"
    );
    assert_eq!(
        registry.sweep(SystemTime::now() + Duration::from_secs(60)).await,
        1
    );
    let download = registry
        .get(&format!("/api/v1/artifacts/{kept}/download"))
        .send()
        .await
        .expect("it answers");
    assert_eq!(download.bytes().await.expect("whole"), "kept");
}

#[tokio::test]
async fn health_readiness_and_metrics_are_there() {
    let registry = Registry::start(1 << 20).await;
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(
            registry
                .anonymous(path)
                .bearer_auth(METRICS_TOKEN)
                .send()
                .await
                .expect("it answers")
                .status(),
            StatusCode::OK,
            "{path}"
        );
    }
    registry
        .refused(
            registry.anonymous("/metrics"),
            StatusCode::UNAUTHORIZED,
            "UNAUTHENTICATED",
        )
        .await;
    registry
        .refused(registry.anonymous("/nothing"), StatusCode::NOT_FOUND, "NOT_FOUND")
        .await;
    let id = registry.announce("a").await;
    let wrong = registry.get(&format!("/api/v1/artifacts/{id}/upload"));
    registry
        .refused(wrong, StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED")
        .await;
}
