//! Which farm the node joins: of all that name one, who counts. Pure.
//!
//! A node earns for its farm, so once a farm has accepted it, it stays there, whatever the network, the kernel's
//! command line or the image say: whoever answers DHCP on the LAN would otherwise have the income. A stick that names
//! another farm moves it, for whoever plugs one in has the machine anyway.

use loam_deployment::FarmId;
use loam_node_api::farm::{FarmSearch, FarmSource, NamedFarm, Stick};

/// What is known about the farm so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The farm that has accepted the node, by the node's own disks.
    pub kept: Option<FarmId>,
    /// … by its record on the chain.
    pub record: Heard,
    pub search: FarmSearch,
    /// By DHCP.
    pub network: Heard,
    pub image: Option<FarmId>,
}

/// The answer of somebody who was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Heard {
    #[default]
    NotYet,
    Said(Option<FarmId>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// As far as is known.
    pub farm: Option<NamedFarm>,
    /// Whether the node may register there. Until then somebody who counts more may still be on his way.
    pub settled: bool,
    /// What a farmer should look at, in whole sentences.
    pub notices: Vec<String>,
}

/// What a node says that waits for a farm's number.
const NAMELESS: &str = "nobody has said which farm this node is to join: write its stick with the farm's number (cargo \
                        xtask write-usb --farm), or name the farm by loam.farm= on the kernel's command line, or by DHCP \
                        (option 224)";

impl Choice {
    /// The farm to register in.
    pub fn to_join(&self) -> Option<FarmId> {
        let farm = self.farm.filter(|_| self.settled);
        farm.map(|farm| farm.number)
    }

    /// What keeps the node from its work, if it is the farm.
    pub fn trouble(&self) -> Option<&'static str> {
        (self.settled && self.farm.is_none()).then_some(NAMELESS)
    }
}

pub fn choose(known: &Known) -> Choice {
    let farm = farm(known);
    Choice {
        farm,
        settled: is_settled(known, farm),
        notices: notices(known, farm),
    }
}

fn farm(known: &Known) -> Option<NamedFarm> {
    let of = |source, number: Option<FarmId>| number.map(|number| NamedFarm { number, source });
    let kept = accepted(known);
    let moved = known.search.stick.farm().filter(|farm| kept != Some(*farm));
    of(FarmSource::Stick, moved)
        .or(of(FarmSource::Kept, kept))
        .or(of(FarmSource::CommandLine, known.search.command_line))
        .or(of(FarmSource::Dhcp, known.network.farm()))
        .or(of(FarmSource::Image, known.image))
}

/// The farm that has accepted the node. One that registered before farms were kept has its record alone.
fn accepted(known: &Known) -> Option<FarmId> {
    known.kept.or(known.record.farm())
}

fn is_settled(known: &Known, farm: Option<NamedFarm>) -> bool {
    let is_new = known.search.over && known.record != Heard::NotYet;
    match farm.map(|farm| farm.source) {
        Some(FarmSource::Stick | FarmSource::Kept) => true,
        Some(FarmSource::CommandLine | FarmSource::Dhcp) => is_new,
        Some(FarmSource::Image) | None => is_new && known.network != Heard::NotYet,
    }
}

fn notices(known: &Known, farm: Option<NamedFarm>) -> Vec<String> {
    let mut notices = Vec::new();
    if let Stick::Disagree(one, other) = known.search.stick {
        notices.push(format!(
            "two sticks name different farms, {one} and {other}, so that neither counts: pull one of them out"
        ));
    }
    let Some(NamedFarm { number, source }) = farm else {
        return notices;
    };
    let what = match source {
        FarmSource::Kept => format!(
            "this node stays in farm {number}, as it was accepted there; a stick that names another farm moves it"
        ),
        FarmSource::Stick => format!("this node joins farm {number}, as a stick says"),
        FarmSource::CommandLine => {
            format!("this node joins farm {number}, as the kernel's command line says")
        }
        FarmSource::Dhcp | FarmSource::Image => return notices,
    };
    // Of what the image says nobody need be told whose stick has said something else: it may be one for many.
    let image = known
        .image
        .filter(|_| source == FarmSource::Kept && known.search.stick == Stick::Silent);
    let passed_over = [
        ("the kernel's command line", known.search.command_line),
        ("the network", known.network.farm()),
        ("the image", image),
    ];
    for (who, named) in passed_over {
        if let Some(named) = named
            && named != number
        {
            notices.push(format!("{who} names farm {named}; {what}"));
        }
    }
    notices
}

impl Heard {
    fn farm(self) -> Option<FarmId> {
        match self {
            Self::NotYet => None,
            Self::Said(farm) => farm,
        }
    }
}

#[cfg(test)]
mod tests;
