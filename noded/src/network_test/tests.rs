use std::{fs, net::SocketAddr, sync::Mutex};

use loam_node_api::network_test::Outcome;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    task::{LocalSet, spawn_local},
};

use super::*;
use crate::fake::{FakeNode, Part};

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Far more than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(120);

struct Place {
    node: FakeNode,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            node: FakeNode::new(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn test(&self) -> NetworkTest {
        NetworkTest {
            sockets: self.node.sockets.clone(),
            clock: self.node.clock(),
            grid: self.folder.path().join("grid.toml"),
            links: self.folder.path().into(),
        }
    }

    fn with_endpoints(&self, endpoints: &[String]) {
        let text = format!(
            "chain_id = 31337\ncontract = \"0x5fbdb2315678afecb367f032d93f642f64180aa3\"\n\
             endpoints = {endpoints:?}\nfarm = 1\n"
        );
        fs::write(self.test().grid, text).unwrap();
    }

    /// A word for each step's outcome, then its text.
    async fn findings(&self) -> Vec<String> {
        let mut told = Vec::new();
        let test = self.test();
        let run = test.run(|finding| {
            let (word, text) = match finding.outcome {
                Outcome::Fine(what) => ("fine", what),
                Outcome::Wrong { what, .. } => ("wrong", what),
                Outcome::NotTried(why) => ("not tried", why),
            };
            told.push(format!("{} {word}: {text}", finding.step));
            Ok(())
        });
        timeout(LONG, run).await.unwrap().unwrap();
        told
    }
}

fn uplink() -> Uplink {
    Uplink {
        link: Some("eth0".into()),
        addresses: vec!["192.0.2.7/24".parse().unwrap()],
        gateway: Some(LOCAL),
        ..Uplink::default()
    }
}

/// An endpoint that knows the number of the chain and one block.
async fn endpoint() -> String {
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let url = format!("http://{}/secret", listener.local_addr().unwrap());
    spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            spawn_local(async move {
                let mut asked = Vec::new();
                while stream.read_buf(&mut asked).await.is_ok_and(|n| n > 0) {
                    let text = String::from_utf8_lossy(&asked);
                    let Some((_, body)) = text.split_once("\r\n\r\n") else {
                        continue;
                    };
                    let Ok(request) = serde_json::from_str::<serde_json::Value>(body) else {
                        continue;
                    };
                    let result = match request["method"].as_str().unwrap() {
                        "eth_chainId" => serde_json::json!("0x7a69"),
                        _ => serde_json::json!({
                            "number": "0x2a", "hash": format!("0x{}", "11".repeat(32)),
                        }),
                    };
                    let answer = serde_json::json!({"jsonrpc": "2.0", "id": request["id"], "result": result});
                    let answer = answer.to_string();
                    let head =
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length";
                    let answer = format!("{head}: {}\r\n\r\n{answer}", answer.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    asked.clear();
                }
            });
        }
    });
    url
}

/// Where nobody listens any more.
async fn refusing() -> SocketAddr {
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn a_node_of_which_nothing_runs_says_so_at_each_step() {
    LocalSet::new()
        .run_until(async {
            let told = Place::new().findings().await;
            let begins = [
                "link wrong: netd does not answer",
                "address not tried: not known without netd",
                "router not tried: not known without netd",
                "names not tried: not known without netd",
                "time wrong: not set",
                "chain wrong: there is no grid to ask",
            ];
            assert_eq!(told.len(), begins.len());
            for (told, begin) in told.iter().zip(begins) {
                assert!(told.starts_with(begin), "{told}");
            }
        })
        .await;
}

#[tokio::test]
async fn without_an_address_nothing_else_is_tried() {
    LocalSet::new()
        .run_until(async {
            let place = Place::new();
            let _netd = place.node.start(Part::Netd);
            place.node.wait_for_sockets(&[Part::Netd]).await;
            let rest = ["router", "names", "time", "chain"]
                .map(|step| format!("{step} not tried: without an address"));
            let told = place.findings().await;
            assert_eq!(told[0], "link wrong: no link is up");
            assert_eq!(told[1], "address not tried: without a link");
            assert_eq!(told[2..], rest);

            place.node.change(|state| {
                state.uplink = Uplink {
                    addresses: Vec::new(),
                    ..uplink()
                };
            });
            let told = place.findings().await;
            assert_eq!(told[0], "link fine: eth0 is up");
            assert_eq!(told[1], "address wrong: none");
            assert_eq!(told[2..], rest);
        })
        .await;
}

#[tokio::test]
async fn each_endpoint_is_asked_by_itself_whatever_is_wrong_before() {
    LocalSet::new()
        .run_until(async {
            let place = Place::new();
            let _netd = place.node.start(Part::Netd);
            place.node.wait_for_sockets(&[Part::Netd]).await;
            place.node.change(|state| state.uplink = uplink());
            let link = place.folder.path().join("eth0");
            fs::create_dir(&link).unwrap();
            fs::write(link.join("carrier"), "0\n").unwrap();
            let refusing = refusing().await;
            place.with_endpoints(&[
                format!("http://{refusing}"),
                endpoint().await,
                "no address: secret".to_owned(),
            ]);
            let clock = Clock {
                set: true,
                source: "a server".into(),
                ..Clock::default()
            };
            fs::write(place.node.clock(), serde_json::to_vec(&clock).unwrap()).unwrap();
            let told = place.findings().await;
            assert_eq!(told[0], "link wrong: nothing is at the other end of eth0");
            assert_eq!(told[1], "address fine: 192.0.2.7/24");
            assert!(told[2].starts_with("router fine: 127.0.0.1"), "{}", told[2]);
            assert_eq!(told[3], "names wrong: this network names no name server");
            assert_eq!(told[4], "time fine: set by a server");
            let silent = format!("chain wrong: the chain's endpoint http://{refusing} does not");
            assert!(told[5].starts_with(&silent), "{}", told[5]);
            assert_eq!(told[6], "chain fine: 127.0.0.1: block 42 is final");
            assert_eq!(
                told[7],
                "chain wrong: an endpoint of the grid is written wrongly"
            );
            assert!(!told.concat().contains("secret"));
        })
        .await;
}

#[tokio::test]
async fn what_nobody_hears_ends_it() {
    LocalSet::new()
        .run_until(async {
            let test = Place::new().test();
            let told = test.run(|_| Err(io::ErrorKind::BrokenPipe.into())).await;
            assert_eq!(told.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        })
        .await;
}

#[tokio::test]
async fn a_router_on_which_nothing_listens_answers_too() {
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(contact(LOCAL, port).await, Contact::Answered);
    drop(listener);
    assert_eq!(contact(LOCAL, port).await, Contact::Answered);
}

/// Knows `known.example`, and says of `lost.example` nothing and of all else that there is no such name.
async fn name_server(asked: Arc<Mutex<Vec<String>>>) -> u16 {
    let socket = UdpSocket::bind((LOCAL, 0)).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut query = [0; 512];
        loop {
            let (_, from) = socket.recv_from(&mut query).await.unwrap();
            // RFC 1035, section 4.1: a header of 12 bytes, then labels, each behind its length.
            let mut name = Vec::new();
            let mut at = 12;
            while query[at] != 0 {
                let end = at + 1 + usize::from(query[at]);
                name.push(String::from_utf8_lossy(&query[at + 1..end]).into_owned());
                at = end;
            }
            let end = at + 5;
            let wants_ipv4 = query[at + 2] == 1;
            let name = name.join(".");
            asked.lock().unwrap().push(name.clone());
            let known = name == "known.example";
            if name == "lost.example" {
                continue;
            }
            let mut answer = query[..end].to_vec();
            // A response, recursion available; 3: no such name.
            answer[2..4].copy_from_slice(&[0x81, if known { 0x80 } else { 0x83 }]);
            answer[6..12].fill(0);
            if known && wants_ipv4 {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 9]);
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    port
}

#[tokio::test]
async fn names_are_asked_of_the_servers_that_netd_names() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let port = name_server(asked.clone()).await;
    let names = ["known.example", "other.example"].map(str::to_owned);
    let found = look_up(&[LOCAL.into()], port, &names, LONG).await;
    let expected: Vec<IpAddr> = vec![[192, 0, 2, 9].into()];
    assert_eq!(found[0].found, Ok(expected));
    assert_eq!(found[1].found, Err(NameError::Unknown));
    // Without any name, one that is known to all is asked for.
    look_up(&[LOCAL.into()], port, &[], LONG).await;
    assert!(asked.lock().unwrap().contains(&KNOWN_NAME.to_owned()));
}

#[tokio::test]
async fn a_silent_name_server_is_waited_for_no_longer_than_its_time() {
    let port = name_server(Arc::default()).await;
    let (lost, patience) = (["lost.example".to_owned()], Duration::from_millis(100));
    let found = timeout(LONG, look_up(&[LOCAL.into()], port, &lost, patience)).await;
    let found = &found.unwrap()[0].found;
    assert!(matches!(found, Err(NameError::Silent(_))), "{found:?}");
}
