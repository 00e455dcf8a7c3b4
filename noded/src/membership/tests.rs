use std::collections::BTreeSet;

use loam_chain::Capacity;
use loam_deployment::NodeKey;
use loam_node_api::{
    farm::{FarmSource, NamedFarm, Stick},
    network::Uplink,
};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::*;
use crate::{
    fake::{FakeNode, Part, Running},
    fake_chain::{self, block},
};

/// A node whose image names farm 3, and whose chain, network and sticks are the test's.
struct Bench {
    node: FakeNode,
    views: watch::Sender<Option<Rc<View>>>,
    offers: watch::Sender<Option<Offer>>,
    choices: watch::Receiver<Choice>,
    task: JoinHandle<()>,
    _storaged: Running,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bench {
    async fn boot(node: FakeNode, search: FarmSearch) -> Self {
        find(&node, &search);
        let storaged = node.start(Part::Storaged);
        node.wait_for_sockets(&[Part::Storaged]).await;
        let storage = node.sockets.storage().await.unwrap();
        let membership = Membership {
            sockets: node.sockets.clone(),
            search: node.farm_search(),
            image: Some(FarmId(3)),
            kept: kept(&storage).await.unwrap(),
        };
        let (views, seen) = watch::channel(None);
        let (offers, offered) = watch::channel(None);
        let (choose, choices) = watch::channel(Choice::default());
        Self {
            node,
            views,
            offers,
            choices,
            task: spawn_local(membership.run(seen, offered, choose)),
            _storaged: storaged,
        }
    }

    /// What the node's record says from now on.
    fn record(&self, farm: Option<u64>) {
        let view = View {
            block: block(1),
            node: farm.map(|farm| fake_chain::node(NodeKey([1; 32]), farm)),
            farm: None,
            contracts: Rc::new([]),
            cancelled: BTreeSet::new(),
            generation: 1,
        };
        self.views.send_replace(Some(Rc::new(view)));
    }

    fn network(&self, farm: Option<u64>) {
        let uplink = Uplink {
            farm: farm.map(FarmId),
            ..Uplink::default()
        };
        let capacity = Capacity::default();
        self.offers.send_replace(Some(Offer { capacity, uplink }));
    }

    async fn wait_choice(&mut self, number: u64, source: FarmSource, settled: bool) -> Choice {
        let number = FarmId(number);
        let farm = Some(NamedFarm { number, source });
        let is_so = |choice: &Choice| choice.farm == farm && choice.settled == settled;
        let waiting = self.choices.wait_for(is_so);
        let found = tokio::time::timeout(Duration::from_secs(120), waiting).await;
        found.unwrap().unwrap().clone()
    }

    async fn wait_kept(&self, farm: u64) {
        let bytes = farm.to_be_bytes().to_vec();
        let is_so = |state: &crate::fake::State| state.secrets.get(FARM) == Some(&bytes);
        self.node.wait("the farm is kept", is_so).await;
    }
}

fn find(node: &FakeNode, search: &FarmSearch) {
    std::fs::write(node.farm_search(), serde_json::to_vec(search).unwrap()).unwrap();
}

fn over(stick: Stick) -> FarmSearch {
    FarmSearch {
        stick,
        command_line: None,
        over: true,
    }
}

#[tokio::test]
async fn a_node_that_was_accepted_stays_though_dhcp_names_another_farm() {
    let work = async {
        let node = FakeNode::new();
        let mut first = Bench::boot(node.clone(), over(Stick::Names(FarmId(7)))).await;
        first.wait_choice(7, FarmSource::Stick, true).await;
        first.record(Some(7));
        first.wait_kept(7).await;
        first.wait_choice(7, FarmSource::Kept, true).await;
        drop(first);

        // Without its stick, on a LAN where somebody else answers.
        let mut again = Bench::boot(node, over(Stick::Silent)).await;
        again.network(Some(9));
        let choice = again.wait_choice(7, FarmSource::Kept, true).await;
        assert_eq!(choice.to_join(), Some(FarmId(7)));
        let told = again.choices.wait_for(|choice| {
            let mut notices = choice.notices.iter();
            notices.any(|notice| notice.starts_with("the network names farm 9"))
        });
        told.await.unwrap();
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test]
async fn a_stick_moves_a_node_and_the_new_farm_is_kept_once_the_chain_has_it() {
    let work = async {
        let node = FakeNode::new();
        node.change(|state| state.secrets.insert(FARM.into(), 7u64.to_be_bytes().into()));
        let mut bench = Bench::boot(node, over(Stick::Silent)).await;
        bench.record(Some(7));
        bench.wait_choice(7, FarmSource::Kept, true).await;

        find(&bench.node, &over(Stick::Names(FarmId(9))));
        // The next block.
        bench.record(Some(7));
        bench.wait_choice(9, FarmSource::Stick, true).await;
        bench.wait_kept(7).await;
        bench.record(Some(9));
        bench.wait_kept(9).await;
        bench.wait_choice(9, FarmSource::Kept, true).await;
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test]
async fn a_node_from_before_farms_were_kept_keeps_the_one_of_its_record() {
    let work = async {
        let mut bench = Bench::boot(FakeNode::new(), FarmSearch::default()).await;
        bench.wait_choice(3, FarmSource::Image, false).await;
        bench.network(Some(9));
        bench.wait_choice(9, FarmSource::Dhcp, false).await;
        bench.record(Some(5));
        bench.wait_kept(5).await;
        bench.wait_choice(5, FarmSource::Kept, true).await;
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test]
async fn a_new_node_takes_what_is_weaker_than_a_stick_once_the_search_is_over() {
    let work = async {
        let mut bench = Bench::boot(FakeNode::new(), FarmSearch::default()).await;
        bench.network(Some(9));
        bench.record(None);
        bench.wait_choice(9, FarmSource::Dhcp, false).await;
        // Nobody tells it that init has written.
        find(&bench.node, &over(Stick::Silent));
        bench.wait_choice(9, FarmSource::Dhcp, true).await;
        bench
            .node
            .look(|state| assert_eq!(state.secrets.get(FARM), None));
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test]
async fn what_was_kept_and_cannot_be_read_is_not_nothing() {
    let work = async {
        let node = FakeNode::new();
        node.change(|state| state.secrets.insert(FARM.into(), vec![7]));
        let _storaged = node.start(Part::Storaged);
        node.wait_for_sockets(&[Part::Storaged]).await;
        let storage = node.sockets.storage().await.unwrap();
        let error = kept(&storage).await.unwrap_err().to_string();
        assert!(error.contains("1 bytes"), "{error}");
    };
    LocalSet::new().run_until(work).await;
}
