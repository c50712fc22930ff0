//! Content in: whole, once, and in flat memory.

use crate::harness::{Registry, hex};
use reqwest::StatusCode;
use sha2::{Digest, Sha256};
use std::time::Duration;
use zectre_common::wire::artifact::StoredArtifact;
use zectre_service::token;
use zectre_testkit::wait_until;

#[tokio::test]
async fn an_artifact_never_changes_and_a_repeat_is_harmless() {
    let registry = Registry::start(1 << 20).await;
    let id = registry.announce("a").await;
    for _ in 0..2 {
        let answer = registry.upload(id, "one").send().await.expect("it answers");
        let stored: StoredArtifact = answer.json().await.expect("json");
        assert_eq!(stored.sha256, hex(b"one"));
    }
    for announced in [None, Some(hex(b"two"))] {
        let mut request = registry.upload(id, "two");
        if let Some(hash) = announced {
            request = request.header("x-content-sha256", hash);
        }
        registry
            .refused(request, StatusCode::CONFLICT, "ARTIFACT_IMMUTABLE")
            .await;
    }
    assert_eq!(registry.row(id).await.1, Some(hex(b"one")));
}

#[tokio::test]
async fn a_wrong_hash_changes_nothing() {
    let registry = Registry::start(1 << 20).await;
    let id = registry.announce("a").await;
    let wrong = registry
        .upload(id, "content")
        .header("x-content-sha256", hex(b"other"));
    registry
        .refused(wrong, StatusCode::UNPROCESSABLE_ENTITY, "HASH_MISMATCH")
        .await;
    let wrong = registry
        .upload(id, "content")
        .header("digest", "sha-256=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    registry
        .refused(wrong, StatusCode::UNPROCESSABLE_ENTITY, "HASH_MISMATCH")
        .await;
    let odd = registry
        .upload(id, "content")
        .header("digest", "sha-256=nonsense");
    registry
        .refused(odd, StatusCode::BAD_REQUEST, "INVALID_DIGEST")
        .await;
    assert_eq!(registry.row(id).await, ("pending".into(), None, None));
    assert_eq!((registry.left_in_tmp(), registry.stored()), (0, 0));
    let download = registry.get(&format!("/api/v1/artifacts/{id}/download"));
    registry
        .refused(download, StatusCode::CONFLICT, "ARTIFACT_NOT_READY")
        .await;
}

#[tokio::test]
async fn too_much_is_refused_with_and_without_a_length() {
    let registry = Registry::start(100_000).await;
    let id = registry.announce("a").await;
    let known = registry.upload(id, vec![1_u8; 100_001]);
    registry
        .refused(known, StatusCode::PAYLOAD_TOO_LARGE, "ARTIFACT_TOO_LARGE")
        .await;
    let chunks = futures_util::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![1_u8; 10_000])));
    let unknown = registry.upload(id, reqwest::Body::wrap_stream(chunks));
    registry
        .refused(unknown, StatusCode::PAYLOAD_TOO_LARGE, "ARTIFACT_TOO_LARGE")
        .await;
    assert_eq!((registry.left_in_tmp(), registry.stored()), (0, 0));
    let fits = registry
        .upload(id, vec![1_u8; 100_000])
        .send()
        .await
        .expect("it answers");
    assert_eq!(fits.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let registry = Registry::start(1 << 30).await;
    let id = registry.announce("a").await;
    // Three megabytes, then nothing more, until the client is dropped.
    let (sender, body) = crate::harness::channel();
    let sending = registry.upload(id, body).send();
    let mut sending = Box::pin(sending);
    let begun = async {
        for _ in 0..3 {
            sender.send(vec![7; 1 << 20]).await.expect("the client reads");
        }
        wait_until(Duration::from_secs(60), "the upload begins", async || {
            (registry.left_in_tmp() == 1).then_some(())
        })
        .await;
    };
    tokio::select! {
        answer = &mut sending => panic!("it can't be answered yet: {answer:?}"),
        () = begun => {}
    }
    drop((sending, sender));
    wait_until(Duration::from_secs(60), "the rest is removed", async || {
        (registry.left_in_tmp() == 0).then_some(())
    })
    .await;
    assert_eq!(registry.stored(), 0);
    assert_eq!(registry.row(id).await.0, "pending");
    let whole = registry.upload(id, "whole").send().await.expect("it answers");
    assert_eq!(
        whole.status(),
        StatusCode::OK,
        "the artifact can still be uploaded"
    );
}

#[tokio::test]
async fn uploads_at_once_agree() {
    let registry = Registry::start(1 << 24).await;
    let content = vec![42_u8; 3 << 20];
    let (a, b) = (registry.announce("a").await, registry.announce("b").await);
    // The same content to two artifacts, and twice to one of them.
    let uploads = [a, a, b, b].map(|id| registry.upload(id, content.clone()).send());
    for answer in futures_util::future::join_all(uploads).await {
        let answer = answer.expect("it answers");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(
            answer.json::<StoredArtifact>().await.expect("json").sha256,
            hex(&content)
        );
    }
    assert_eq!((registry.left_in_tmp(), registry.stored()), (0, 1));

    // Different content to one artifact: one wins, and the row says which.
    let id = registry.announce("c").await;
    let uploads = ["one", "two", "three"].map(|content| registry.upload(id, content).send());
    let answers = futures_util::future::join_all(uploads).await;
    let mut won = Vec::new();
    for answer in answers {
        let answer = answer.expect("it answers");
        match answer.status() {
            StatusCode::OK => won.push(answer.json::<StoredArtifact>().await.expect("json").sha256),
            status => assert_eq!(status, StatusCode::CONFLICT),
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(registry.row(id).await.1.as_ref(), won.first());
}

#[tokio::test]
async fn only_the_named_services_may_call() {
    let registry = Registry::start(1 << 20).await;
    let id = registry.announce("a").await;
    let upload = format!("/api/v1/artifacts/{id}/upload");
    registry
        .refused(
            registry.post(&upload, None).body("x"),
            StatusCode::UNAUTHORIZED,
            "UNAUTHENTICATED",
        )
        .await;
    let proxy = token::mint_service(&registry.key, token::name::PROXY, token::name::REGISTRY);
    registry
        .refused(
            registry.post(&upload, Some(&proxy)).body("x"),
            StatusCode::FORBIDDEN,
            "FORBIDDEN",
        )
        .await;
    let astray = token::mint_service(&registry.key, token::name::API, token::name::SCHEDULER);
    registry
        .refused(
            registry.post(&upload, Some(&astray)).body("x"),
            StatusCode::UNAUTHORIZED,
            "UNAUTHENTICATED",
        )
        .await;
    assert_eq!(registry.row(id).await.0, "pending");
}

#[tokio::test]
async fn a_large_artifact_takes_no_memory() {
    const CHUNK: usize = 1 << 20;
    const CHUNKS: usize = 300;
    let registry = Registry::start(1 << 30).await;
    let id = registry.announce("large").await;
    let before = crate::harness::resident_bytes();
    let block = bytes::Bytes::from((0..CHUNK).map(|n| (n % 249) as u8).collect::<Vec<u8>>());
    let mut hash = Sha256::new();
    (0..CHUNKS).for_each(|_| hash.update(&block));
    let expected = zectre_service::key::to_hex(&hash.finalize());
    let parts = vec![block; CHUNKS].into_iter().map(Ok::<_, std::io::Error>);
    let mut upload = Box::pin(
        registry
            .upload(id, reqwest::Body::wrap_stream(futures_util::stream::iter(parts)))
            .send(),
    );
    let mut peak = 0;
    let mut sample = tokio::time::interval(Duration::from_millis(5));
    let answer = loop {
        tokio::select! {
            answer = &mut upload => break answer.expect("it answers"),
            _ = sample.tick() => peak = peak.max(crate::harness::resident_bytes()),
        }
    };
    assert_eq!(
        answer.json::<StoredArtifact>().await.expect("json").sha256,
        expected
    );

    let mut download = registry
        .get(&format!("/api/v1/artifacts/{id}/download"))
        .send()
        .await
        .expect("it answers");
    let (mut size, mut hash) = (0, Sha256::new());
    while let Some(chunk) = download.chunk().await.expect("whole") {
        size += chunk.len();
        hash.update(&chunk);
        if size % (8 * CHUNK) < chunk.len() {
            peak = peak.max(crate::harness::resident_bytes());
        }
    }
    assert_eq!(
        (size, zectre_service::key::to_hex(&hash.finalize())),
        (CHUNK * CHUNKS, expected)
    );
    // The client is in this process too; a tenth of the content is far more than both need.
    let grown = peak.saturating_sub(before);
    assert!(grown < 32 << 20, "300 MiB took {} MiB of memory", grown >> 20);
}
