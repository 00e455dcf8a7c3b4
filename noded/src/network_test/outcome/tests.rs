use loam_node_api::network::Missing;

use super::*;
use crate::daemons::Daemon;

fn uplink() -> Uplink {
    Uplink {
        link: Some("eth0".into()),
        addresses: vec!["192.0.2.7/24".parse().unwrap()],
        gateway: Some([192, 0, 2, 1].into()),
        dns: vec!["192.0.2.1".parse().unwrap()],
        ..Uplink::default()
    }
}

fn away() -> DaemonError {
    DaemonError::Away {
        daemon: Daemon::Netd,
        source: io::ErrorKind::NotFound.into(),
    }
}

/// One word for the outcome, and its text.
fn said(outcome: Outcome) -> String {
    match outcome {
        Outcome::Fine(what) => format!("fine: {what}"),
        Outcome::NotTried(why) => format!("not tried: {why}"),
        Outcome::Wrong { what, advice } => {
            assert!(advice.ends_with('.'), "no sentence: {advice}");
            format!("wrong: {what}")
        }
    }
}

#[test]
fn a_link_needs_netd_and_something_at_its_other_end() {
    let up = uplink();
    assert_eq!(said(link(Ok(&up), Some(true))), "fine: eth0 is up");
    assert_eq!(said(link(Ok(&up), None)), "fine: eth0 is up");
    let pulled = said(link(Ok(&up), Some(false)));
    assert_eq!(pulled, "wrong: nothing is at the other end of eth0");
    let none = said(link(Ok(&Uplink::default()), None));
    assert_eq!(none, "wrong: no link is up");
    let silent = said(link(Err(&away()), None));
    assert!(
        silent.starts_with("wrong: netd does not answer"),
        "{silent}"
    );
    assert_eq!(carrier("1\n"), Some(true));
    assert_eq!(carrier("0\n"), Some(false));
    assert_eq!(carrier(""), None);
}

#[test]
fn addresses_are_told_or_why_there_is_none() {
    let mut up = uplink();
    up.addresses.push("2001:db8::7/64".parse().unwrap());
    assert_eq!(said(address(Ok(&up))), "fine: 192.0.2.7/24 2001:db8::7/64");
    up.addresses.clear();
    assert_eq!(said(address(Ok(&up))), "wrong: none");
    up.missing = Some(Missing::Dhcpv6Server);
    assert!(said(address(Ok(&up))).contains("no server answers"));
    let no_link = said(address(Ok(&Uplink::default())));
    assert_eq!(no_link, "not tried: without a link");
    assert!(said(address(Err(&away()))).starts_with("not tried"));
}

#[test]
fn a_silent_router_is_no_fault_and_one_out_of_reach_is() {
    let mut up = uplink();
    let with = |up: &Uplink, contact| said(router(Ok(up), contact));
    assert_eq!(
        with(&up, Some(Contact::Answered)),
        "fine: 192.0.2.1 answers"
    );
    assert!(with(&up, Some(Contact::Silent)).starts_with("fine: 192.0.2.1 does not"));
    let unreachable = Contact::Unreachable("no way".into());
    assert_eq!(with(&up, Some(unreachable)), "wrong: 192.0.2.1: no way");
    up.gateway = None;
    assert_eq!(with(&up, None), "wrong: none is named");
    up.addresses.push("2001:db8::7/64".parse().unwrap());
    assert!(with(&up, None).starts_with("fine: none for IPv4"));
    assert!(said(router(Err(&away()), None)).starts_with("not tried"));
}

#[test]
fn a_refused_connection_is_an_answer() {
    let of = |kind: io::ErrorKind| Contact::of(Err(kind.into()));
    assert_eq!(Contact::of(Ok(())), Contact::Answered);
    assert_eq!(of(io::ErrorKind::ConnectionRefused), Contact::Answered);
    assert_eq!(of(io::ErrorKind::ConnectionReset), Contact::Answered);
    assert_eq!(of(io::ErrorKind::HostUnreachable), Contact::Silent);
    let unreachable = of(io::ErrorKind::NetworkUnreachable);
    assert!(matches!(unreachable, Contact::Unreachable(_)));
}

#[test]
fn names_are_told_from_addresses() {
    let hosts = [
        "a.example",
        "192.0.2.9",
        "[2001:db8::9]",
        "b.example",
        "a.example",
    ];
    let hosts = hosts.map(str::to_owned);
    assert_eq!(names_among(&hosts, 8), ["a.example", "b.example"]);
    assert_eq!(names_among(&hosts, 1), ["a.example"]);
    assert!(names_among(&hosts[1..3], 8).is_empty());
}

#[test]
fn a_name_without_an_answer_is_told_from_one_that_is_unknown() {
    let servers: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
    let lookup = |name: &str, found| Lookup {
        name: name.into(),
        found,
    };
    let silent = || lookup("a.example", Err(NameError::Silent("nothing".into())));
    let unknown = || lookup("b.example", Err(NameError::Unknown));
    let found = |n: usize| lookup("c.example", Ok(vec![[192, 0, 2, 9].into(); n]));
    let one = ["a name".to_owned()];
    let of = |lookups: &[Lookup]| said(names(Ok(&servers), &one, lookups));
    assert_eq!(of(&[found(1)]), "fine: c.example is 192.0.2.9");
    assert_eq!(
        of(&[found(3), found(1)]),
        "fine: c.example is 192.0.2.9 and 2 more, c.example is 192.0.2.9"
    );
    assert_eq!(
        of(&[found(1), unknown()]),
        "wrong: b.example is unknown to the name servers 192.0.2.1, 192.0.2.2"
    );
    assert_eq!(
        of(&[unknown(), silent()]),
        "wrong: no address of a.example from the name servers 192.0.2.1, 192.0.2.2: nothing"
    );
    // Where nothing needs a name, that the name servers answer is enough.
    let any = |lookups: &[Lookup]| said(names(Ok(&servers[..1]), &[], lookups));
    assert!(any(&[unknown()]).starts_with("fine: name servers answer"));
    assert!(any(&[silent()]).contains("from the name server 192.0.2.1"));
    let nobody = said(names(Ok(&[]), &one, &[]));
    assert_eq!(nobody, "wrong: this network names no name server");
    assert!(said(names(Err(&away()), &one, &[])).starts_with("not tried"));
}

#[test]
fn the_time_says_who_set_it_or_why_nobody_did() {
    let of = |set, source: &str| {
        said(time(&Clock {
            set,
            source: source.into(),
            ..Clock::default()
        }))
    };
    assert_eq!(of(true, "a server"), "fine: set by a server");
    assert_eq!(of(true, ""), "fine: set");
    assert_eq!(of(false, "silence"), "wrong: not set: silence");
    assert_eq!(of(false, ""), "wrong: not set: clockd has said nothing yet");
}

#[test]
fn one_endpoint_is_enough_and_none_shows_a_secret() {
    let silent = || ReadError::Silent {
        endpoint: "https://b.example".into(),
        reason: "nothing".into(),
    };
    let answer = |host: &str, block| Answer {
        host: (!host.is_empty()).then(|| host.into()),
        block,
        took: Duration::from_millis(7),
    };
    let advice = |answers: Vec<Answer>| {
        let told = chain(answers).into_iter().map(|(outcome, took)| {
            assert_eq!(took, Duration::from_millis(7));
            match outcome {
                Outcome::Wrong { advice, .. } => advice,
                other => said(other),
            }
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(
        advice(vec![
            answer("b.example", Err(silent())),
            answer("a.example", Ok(9))
        ]),
        [OTHER_ENDPOINT, "fine: a.example: block 9 is final"]
    );
    assert_eq!(
        advice(vec![answer("b.example", Err(silent()))]),
        [NO_ENDPOINT]
    );
    let bad = ReadError::Configuration("endpoint `htp://secret`".into());
    let told = chain(vec![answer("", Err(bad))]).remove(0).0;
    assert_eq!(
        said(told),
        "wrong: an endpoint of the grid is written wrongly"
    );
}
