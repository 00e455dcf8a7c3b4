use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{bounded_http::MAX_ANSWER, *};

const CHAIN: u64 = 31337;

/// An endpoint that gives this answer to everything but the question for its chain.
async fn endpoint(chain: u64, answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    if stream.read_buf(&mut request).await.unwrap() == 0 {
                        return;
                    }
                }
                let of_chain = request.windows(11).any(|part| part == b"eth_chainId");
                let answer = match of_chain {
                    true => http(&result(&format!("\"{chain:#x}\""))),
                    false => answer,
                };
                // The other side hangs up when it has heard enough.
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    format!("http://{address}")
}

fn result(result: &str) -> String {
    // The first request has id 0, and the one after the chain's id 1; nobody checks.
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#)
}

fn http(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}").into_bytes()
}

async fn ask(endpoints: &[String]) -> Result<U64, ReadError> {
    Rpc::new(CHAIN, endpoints)
        .unwrap()
        .ask("eth_blockNumber", ())
        .await
}

fn is_wrong(answer: &Result<U64, ReadError>) -> bool {
    matches!(answer, Err(ReadError::Wrong { .. }))
}

fn is_silent(answer: &Result<U64, ReadError>) -> bool {
    matches!(answer, Err(ReadError::Silent { .. }))
}

#[tokio::test]
async fn a_good_answer_is_an_answer() {
    let good = endpoint(CHAIN, http(&result(r#""0x10""#))).await;
    assert_eq!(ask(&[good]).await, Ok(U64::from(16)));
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let mut endless = http(&result("\""));
    endless.resize(endless.len() + 2 * MAX_ANSWER, b'a');
    let answer = ask(&[endpoint(CHAIN, endless).await]).await;
    assert!(is_silent(&answer), "{answer:?}");
    let error = answer.unwrap_err().to_string();
    assert!(error.contains("larger than 1048576 bytes"), "{error}");
}

#[tokio::test]
async fn nonsense_is_wrong() {
    let (text, null) = (result("\"no number\""), result("null"));
    for body in ["", "hello", "{}", &text, &null] {
        let answer = ask(&[endpoint(CHAIN, http(body)).await]).await;
        assert!(is_wrong(&answer), "{body}: {answer:?}");
    }
    // An answer to a question that was not asked.
    let batch = ask(&[endpoint(CHAIN, http("[]")).await]).await;
    assert!(is_silent(&batch), "{batch:?}");
}

#[tokio::test]
async fn a_status_is_told() {
    let busy = b"HTTP/1.1 503 Busy\r\nconnection: close\r\n\r\n<html>".to_vec();
    let answer = ask(&[endpoint(CHAIN, busy).await]).await;
    assert!(is_silent(&answer), "{answer:?}");
    assert!(answer.unwrap_err().to_string().contains("503"));
}

#[tokio::test]
async fn an_endpoint_that_cannot_prove_its_name_is_not_asked() {
    let plain = endpoint(CHAIN, http(&result(r#""0x10""#))).await;
    let answer = ask(&[plain.replace("http://", "https://")]).await;
    assert!(is_silent(&answer), "{answer:?}");
}

#[tokio::test]
async fn a_refusal_is_told_and_keeps_to_one_line() {
    let body = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no\nmore"}}"#;
    let error = ask(&[endpoint(CHAIN, http(body)).await]).await.unwrap_err();
    assert!(matches!(&error, ReadError::Refused { reason, .. } if reason == "no more"));
}

#[tokio::test]
async fn the_next_endpoint_is_asked_when_one_fails() {
    // Nobody listens there any more.
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = format!("http://{}", dead.local_addr().unwrap());
    drop(dead);
    let foreign = endpoint(1, http(&result(r#""0x1""#))).await;
    let good = endpoint(CHAIN, http(&result(r#""0x10""#))).await;
    let rpc = Rpc::new(CHAIN, &[gone.clone(), foreign.clone(), good]).unwrap();
    let ask = async |rpc: &Rpc| rpc.ask::<_, U64>("eth_blockNumber", ()).await;
    assert_eq!(ask(&rpc).await, Ok(U64::from(16)));
    // It stays the one in use.
    assert!(rpc.current().name.ends_with(rpc.endpoints[2].name.as_str()));
    assert_eq!(ask(&rpc).await, Ok(U64::from(16)));

    let rpc = Rpc::new(CHAIN, &[gone, foreign]).unwrap();
    assert!(is_wrong(&ask(&rpc).await), "another chain");
    // Then it is the first's turn again.
    assert!(is_wrong(&ask(&rpc).await));
}

#[test]
fn what_is_no_endpoint_is_refused() {
    for endpoint in ["", "localhost:8545", "ftp://example", "http://"] {
        let error = Rpc::new(CHAIN, &[endpoint.to_owned()]).unwrap_err();
        assert!(matches!(error, ReadError::Configuration(_)), "{endpoint}");
    }
    assert!(Rpc::new(CHAIN, &[]).is_err());
}

/// The path often holds a key that is paid for.
#[test]
fn messages_name_the_host_alone() {
    let rpc = Rpc::new(CHAIN, &["https://rpc.example/v2/secret".to_owned()]).unwrap();
    let error = rpc.wrong("eth_call", "test").to_string();
    assert!(error.contains("https://rpc.example") && !error.contains("secret"));
}
