//! `/v1/*` passed on to a worker that someone else runs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::support::{PATIENCE, TestPool};

/// Serves one request: one token, and then nothing until its client leaves.
fn upstream(listener: TcpListener) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !request.ends_with(b"}") {
            let length = stream.read(&mut buffer).unwrap();
            assert_ne!(length, 0, "{}", String::from_utf8_lossy(&request));
            request.extend(&buffer[..length]);
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        write!(stream, "{head}7\r\ndata: a\r\n").unwrap();
        // Ends when the pool closes the connection, because its client did.
        while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
        String::from_utf8(request).unwrap()
    })
}

#[test]
fn tokens_come_as_they_are_made_and_a_client_that_leaves_ends_the_work() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let llm = upstream(listener);
    let pool = TestPool::start_with(
        &format!("[worker.llm]\nhttp = {{ url = \"{url}\" }}\nopenai = true\n"),
        &["--rest", "127.0.0.1:0"],
    );
    pool.wait("the worker", |status| status.rest.is_some() && !status.workers.is_empty());
    let address = pool.try_status().unwrap().rest.unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = r#"{"model":"x","stream":true}"#;
    write!(
        client,
        "POST /v1/chat/completions?q=1 HTTP/1.1\r\nHost: pool\r\nAuthorization: Bearer k\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&answer).contains("data: a") {
        let length = client.read(&mut buffer).unwrap();
        assert_ne!(length, 0, "{}\n{}", String::from_utf8_lossy(&answer), pool.log());
        answer.extend(&buffer[..length]);
    }
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 200"));
    drop(client);
    let request = llm.join().unwrap();
    assert!(request.starts_with("POST /v1/chat/completions?q=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains("authorization: bearer k"), "{request}");
    assert!(request.ends_with(body), "{request}");
}

#[test]
fn without_such_a_worker_nothing_is_there() {
    let pool = TestPool::start_with("", &["--rest", "127.0.0.1:0"]);
    let address = pool.wait("address", |status| status.rest.is_some()).rest.unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    write!(client, "GET /v1/models HTTP/1.1\r\nHost: pool\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(answer.contains("`openai = true`"), "{answer}");
}
