//! Logins at registries: from a deployment to storaged, and nowhere else.

use loam_deployment::seal::{SealContext, SealedField, seal};
use loam_node_api::image::Image;

use super::*;

const RIGHT: &str = "correct-horse";
const WRONG: &str = "battery-staple";

/// A contract whose machine's image wants a login.
fn with_login(bench: &Bench, contract: u64, version: u64, password: &str) -> Published {
    let identity = &bench.identity;
    let always = payload::Restart::Always;
    let mut payload = payload_of(identity, contract, version, always, 1, "10.20.0.0/24");
    let web: Name = "web".parse().unwrap();
    let sealed = |field, secret: &str| {
        let context = SealContext {
            chain: CHAIN,
            node: identity.node,
            contract: ContractId(contract),
            workload: &web,
            field,
        };
        seal(secret.as_bytes(), &identity.hpke.public, &context).unwrap()
    };
    let login = payload::ImageLogin {
        registry: fixture::image(1).registry().to_owned(),
        sealed_user: sealed(SealedField::ImageUser, "alice"),
        sealed_password: sealed(SealedField::ImagePassword, password),
    };
    let Body::Workload(workloads) = &mut payload.body else {
        panic!("workloads")
    };
    let Some(Workload::Machine(machine)) = workloads.get_mut(&web) else {
        panic!("a machine")
    };
    machine.image_login = Some(login);
    published(&payload)
}

fn image(contract: Option<u64>) -> Image {
    Image {
        reference: fixture::image(1),
        only_for: contract.map(ContractId),
    }
}

fn has(state: &State, images: &[Image]) -> bool {
    let there: BTreeSet<_> = state.images.values().cloned().collect();
    there == images.iter().cloned().collect()
}

#[tokio::test]
async fn a_refused_login_is_told_and_a_better_one_used() {
    local(async {
        let (mut bench, _daemons) =
            Bench::ready_where(|state| state.refused_password = Some(WRONG.to_owned())).await;
        bench.publish(vec![with_login(&bench, 1, 1, WRONG)], &[]);
        let refused = |reports: &[Report]| {
            let web = told_of_web(reports, Version(1));
            web.is_some_and(|web| web.detail.contains("refuses the login"))
        };
        let told = bench.reports.wait_for(|reports| refused(reports));
        let told = format!("{:?}", *told.await.unwrap());
        for secret in [WRONG, "alice"] {
            assert!(!told.contains(secret), "{told}");
        }
        bench.publish(vec![with_login(&bench, 1, 2, RIGHT)], &[]);
        let node = &bench.node;
        node.wait("it runs", |state| runs(state, 1)).await;
        node.look(|state| {
            assert!(has(state, &[image(Some(1))]));
            assert_eq!(state.logins.last().unwrap().password, RIGHT);
        });
    })
    .await;
}

#[tokio::test]
async fn a_login_that_changes_during_a_fetch_is_told_once() {
    local(async {
        let (bench, _daemons) =
            Bench::ready_where(|state| state.slow_images.insert(image(Some(1)))).await;
        let node = &bench.node;
        bench.publish(vec![with_login(&bench, 1, 1, WRONG)], &[]);
        node.wait("it is asked for", |state| state.logins.len() == 1)
            .await;
        bench.publish(vec![with_login(&bench, 1, 2, RIGHT)], &[]);
        node.wait("it is asked for anew", |state| state.logins.len() == 2)
            .await;
        let looks = node.look(|state| calls(state, "images"));
        node.wait("the fetch is looked at", |state| {
            calls(state, "images") >= looks + 3
        })
        .await;
        node.look(|state| {
            let told: Vec<_> = state.logins.iter().map(|login| &*login.password).collect();
            assert_eq!(told, [WRONG, RIGHT]);
        });
    })
    .await;
}

#[tokio::test]
async fn what_one_contract_logged_in_for_is_nothing_to_the_next() {
    local(async {
        let (bench, _daemons) = Bench::ready().await;
        let node = &bench.node;
        bench.publish(vec![with_login(&bench, 1, 1, RIGHT)], &[]);
        node.wait("the first runs", |state| runs(state, 1)).await;
        let all = [1, 2].map(|contract| with_login(&bench, contract, 1, RIGHT));
        let [one, two] = all;
        bench.publish(vec![one, two, always(&bench, 3)], &[]);
        node.wait("all run", |state| (1..=3).all(|n| runs(state, n)))
            .await;
        let [first, second, shared] = [image(Some(1)), image(Some(2)), image(None)];
        node.look(|state| {
            assert!(has(state, &[shared.clone(), first, second.clone()]));
            let told: Vec<_> = state.logins.iter().map(|login| login.contract.0).collect();
            assert_eq!(told, [1, 2]);
        });
        let two = with_login(&bench, 2, 1, RIGHT);
        bench.publish(vec![two, always(&bench, 3)], &[1]);
        node.wait("the first one's image goes", |state| {
            has(state, &[shared.clone(), second.clone()])
        })
        .await;
    })
    .await;
}
