//! Clients that are slow, long-winded, or not there any more cost nothing but their own connection.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::rig::{OPERATOR, PATIENCE, READER, Rig, exchange};

#[tokio::test]
async fn s2_a_body_is_bounded_however_it_comes() {
    let rig = Rig::new().await;
    let long = format!(r#"{{"route":"{}"}}"#, "x".repeat(70_000));
    rig.operate("POST /api/v1/destinations/reset", &long).await.problem(413);
    let chunk = "x".repeat(70_000);
    let chunked = format!(
        "POST /api/v1/destinations/reset HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {OPERATOR}\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         {:x}\r\n{chunk}\r\n0\r\n\r\n",
        rig.address,
        chunk.len()
    );
    rig.send_raw(&chunked).await.problem(413);
    assert!(rig.invented.resets.lock().unwrap().is_empty());
}

#[tokio::test]
async fn s2_a_head_is_bounded() {
    let rig = Rig::new().await;
    let request =
        format!("GET /healthz HTTP/1.1\r\nHost: {}\r\nX: {}\r\n\r\n", rig.address, "x".repeat(100_000));
    assert_eq!(rig.send_raw(&request).await.status, 431);
}

#[tokio::test]
async fn s2_a_head_or_a_body_that_does_not_come_ends_the_connection_and_others_are_served() {
    let rig = Rig::new().await;
    let started = Instant::now();
    let mut head = TcpStream::connect(rig.address).await.unwrap();
    head.write_all(b"GET /healthz HTTP/1.1\r\nHo").await.unwrap();
    let mut body = TcpStream::connect(rig.address).await.unwrap();
    let request = format!(
        "POST /api/v1/reload HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {OPERATOR}\r\n\
         Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{{",
        rig.address
    );
    body.write_all(request.as_bytes()).await.unwrap();
    let mut silent = TcpStream::connect(rig.address).await.unwrap();
    assert_eq!(rig.send("GET /healthz", &[], "").await.status, 200);
    let mut answer = Vec::new();
    timeout(PATIENCE, body.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    // Whether it is closed with an answer or without one is no matter.
    let _ = timeout(PATIENCE, head.read_to_end(&mut Vec::new())).await.expect("the end");
    let _ = timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await.expect("the end");
    assert!(started.elapsed() < Duration::from_secs(40));
    assert!(rig.invented.reloads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn wrong_methods_and_addresses_are_told_so() {
    let rig = Rig::new().await;
    for (request, allowed) in [
        ("PUT /api/v1/messages", "GET,HEAD"),
        ("GET /api/v1/reload", "POST"),
        ("PATCH /api/v1/suppressions", "GET,HEAD,POST,DELETE"),
        ("OPTIONS /api/v1/overview", "GET,HEAD"),
        ("POST /healthz", "GET,HEAD"),
    ] {
        let answer = rig.operate(request, "").await;
        answer.problem(405);
        let said = answer.header("allow").unwrap_or_default();
        assert!(allowed.split(',').all(|method| said.contains(method)), "{request}: {said}");
    }
    for nothing in ["/nothing", "/api", "/api/v1", "/api/v1/", "/api/v1/messages/", "/api/v2/messages", "//"]
    {
        rig.operate(&format!("GET {nothing}"), "").await.problem(404);
    }
    assert_eq!(rig.operate("HEAD /api/v1/overview", "").await.status, 200);
}

#[tokio::test]
async fn a_stream_has_an_overview_each_second_and_ends_with_the_server() {
    let rig = Rig::new().await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    let request = format!(
        "GET /api/v1/stream HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {READER}\r\n\r\n",
        rig.address
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let (mut overviews, mut retries) = (0, 0);
    while overviews < 2 {
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().expect("the stream goes on");
        retries += usize::from(line.starts_with("retry: "));
        if let Some(json) = line.strip_prefix("data: ") {
            let overview: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!(overview["accepted"], 42);
            overviews += 1;
        }
    }
    assert_eq!(retries, 1);
    rig.shutdown.cancel();
    timeout(PATIENCE, rig.running).await.expect("an end, though somebody watches").unwrap();
    while let Ok(Some(_)) = timeout(PATIENCE, lines.next_line()).await.unwrap() {}
}

#[tokio::test]
async fn s2_only_so_many_watch() {
    let rig = Rig::new().await;
    let mut watchers = Vec::new();
    for _ in 0..32 {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        let request = format!(
            "GET /api/v1/stream HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {READER}\r\n\r\n",
            rig.address
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut first)).await.unwrap().unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        watchers.push(stream);
    }
    let answer = rig.read("/api/v1/stream").await;
    answer.problem(503);
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn s2_a_client_that_opens_many_connections_leaves_places_for_others() {
    let rig = Rig::new().await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(rig.address).await.unwrap());
    }
    let mut beyond = TcpStream::connect(rig.address).await.unwrap();
    let mut told = String::new();
    timeout(PATIENCE, beyond.read_to_string(&mut told)).await.unwrap().unwrap();
    let (head, body) = told.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 429 ") && head.contains(&format!("Content-Length: {}\r\n", body.len()))
    );
    assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["status"], 429);
    // Somebody else, here the same machine by another of its addresses, is served at once.
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = timeout(PATIENCE, other.connect(rig.address)).await.unwrap().unwrap();
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", rig.address);
    assert_eq!(exchange(other, &request).await.status, 200);
    // And the first again, once it has let go of one.
    drop(silent.pop());
    let again = async {
        loop {
            let mut stream = TcpStream::connect(rig.address).await.unwrap();
            let mut answer = Vec::new();
            // Whoever is turned away may not get to read why.
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = stream.read_to_end(&mut answer).await;
            if answer.starts_with(b"HTTP/1.1 200 ") {
                return;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("a place");
}

#[tokio::test]
async fn what_is_strange_in_a_request_is_refused_and_nothing_breaks() {
    let rig = Rig::new().await;
    for path in [
        "messages/..%2f..%2fetc%2fpasswd",
        "messages/%00",
        "messages/01KAPZ0000000000000000000%00",
        "messages/%ff",
        "messages?limit=1&limit=2",
        "messages?user=",
        "messages?to=a%00@b.example",
        "messages?%00=1",
        "messages?after=q:..",
        "keys?key=a&key=b",
        "keys?key=%ff",
        "explain?address=a@b.example&from=%0d%0aX:1",
    ] {
        rig.read(&format!("/api/v1/{path}")).await.problem(400);
    }
    let order = r#"{"action":"hold","dry_run":false,"filter":{}}"#;
    rig.operate("POST /api/v1/messages/actions?dry_run=true", order).await.problem(400);
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    rig.operate("POST /api/v1/messages/actions", &deep).await.problem(400);
    let filter = format!(r#"{{"action":"hold","dry_run":true,"filter":{deep}}}"#);
    assert!(matches!(rig.operate("POST /api/v1/messages/actions", &filter).await.status, 400 | 422));
    for line in ["CONNECT evil.example:443 HTTP/1.1", "OPTIONS * HTTP/1.1", "TRACE / HTTP/1.1"] {
        let request = format!("{line}\r\nHost: {}\r\nConnection: close\r\n\r\n", rig.address);
        let answer = rig.send_raw(&request).await;
        assert!((400..500).contains(&answer.status), "{line}: {answer:?}");
    }
    rig.read("/api/v1/overview").await.ok();
}
