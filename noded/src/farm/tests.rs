use super::*;

const NOBODY: [Option<u64>; 3] = [None, Some(7), Some(9)];

/// Every combination of what each may say: nothing, farm 7, farm 9.
fn all() -> Vec<Known> {
    let mut all = Vec::new();
    let heard = || {
        let said = NOBODY.map(|farm| Heard::Said(farm.map(FarmId)));
        [Heard::NotYet].into_iter().chain(said)
    };
    let sticks = [
        Stick::Silent,
        Stick::Names(FarmId(7)),
        Stick::Names(FarmId(9)),
        Stick::Disagree(FarmId(7), FarmId(9)),
    ];
    for kept in NOBODY {
        for record in heard() {
            for stick in sticks {
                for command_line in NOBODY {
                    for network in heard() {
                        for image in NOBODY {
                            for over in [false, true] {
                                all.push(Known {
                                    kept: kept.map(FarmId),
                                    record,
                                    search: FarmSearch {
                                        stick,
                                        command_line: command_line.map(FarmId),
                                        over,
                                    },
                                    network,
                                    image: image.map(FarmId),
                                });
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(all.len(), 3 * 4 * 4 * 3 * 4 * 3 * 2);
    all
}

fn chosen(known: &Known) -> Option<(u64, FarmSource)> {
    let farm = choose(known).farm;
    farm.map(|farm| (farm.number.0, farm.source))
}

#[test]
fn whoever_answers_dhcp_cannot_move_a_node_nor_can_command_line_or_image() {
    for known in all() {
        let Some(accepted) = known.kept.or(known.record.farm()) else {
            continue;
        };
        // As if none of them were there.
        let without = Known {
            search: FarmSearch {
                command_line: None,
                ..known.search.clone()
            },
            network: Heard::NotYet,
            image: None,
            ..known.clone()
        };
        let choice = choose(&known);
        assert_eq!(choice.to_join(), choose(&without).to_join(), "{known:?}");
        let expected = match known.search.stick.farm() {
            Some(stick) if stick != accepted => (stick.0, FarmSource::Stick),
            _ => (accepted.0, FarmSource::Kept),
        };
        assert_eq!(chosen(&known), Some(expected), "{known:?}");
        assert_eq!(choice.to_join(), Some(FarmId(expected.0)), "{known:?}");
    }
}

#[test]
fn the_record_counts_only_for_a_node_that_has_kept_no_farm() {
    let known = Known {
        kept: Some(FarmId(7)),
        record: Heard::Said(Some(FarmId(9))),
        ..Known::default()
    };
    assert_eq!(chosen(&known), Some((7, FarmSource::Kept)));
    let before = Known {
        kept: None,
        ..known
    };
    assert_eq!(chosen(&before), Some((9, FarmSource::Kept)));
}

#[test]
fn of_a_new_node_the_stick_counts_most_then_command_line_network_and_image() {
    for known in all() {
        if known.kept.or(known.record.farm()).is_some() {
            continue;
        }
        let order = [
            (known.search.stick.farm(), FarmSource::Stick),
            (known.search.command_line, FarmSource::CommandLine),
            (known.network.farm(), FarmSource::Dhcp),
            (known.image, FarmSource::Image),
        ];
        let mut named = order.into_iter();
        let first = named.find_map(|(farm, source)| Some((farm?.0, source)));
        assert_eq!(chosen(&known), first, "{known:?}");
    }
}

#[test]
fn a_new_node_waits_for_who_would_count_more() {
    for known in all() {
        if known.kept.or(known.record.farm()).is_some() {
            continue;
        }
        let stick = known.search.stick.farm();
        let named_by_others = known.search.command_line.or(known.network.farm());
        let all_looked = known.search.over
            && known.record != Heard::NotYet
            && (named_by_others.is_some() || known.network != Heard::NotYet);
        let choice = choose(&known);
        assert_eq!(choice.settled, stick.is_some() || all_looked, "{known:?}");
        // It says that it waits for a number when nobody is on his way any more who may have one.
        let nameless = all_looked && stick.or(named_by_others).or(known.image).is_none();
        assert_eq!(choice.trouble().is_some(), nameless, "{known:?}");
    }
}

#[test]
fn a_farm_that_is_passed_over_is_told_by_who_named_it() {
    let kept = Known {
        kept: Some(FarmId(7)),
        network: Heard::Said(Some(FarmId(9))),
        ..Known::default()
    };
    let stays = "this node stays in farm 7, as it was accepted there; a stick that names another farm moves it";
    let told = |known: &Known| choose(known).notices;
    assert_eq!(told(&kept), [format!("the network names farm 9; {stays}")]);

    let mut all = kept.clone();
    all.search.command_line = Some(FarmId(8));
    all.image = Some(FarmId(6));
    let lines = [
        format!("the kernel's command line names farm 8; {stays}"),
        format!("the network names farm 9; {stays}"),
        format!("the image names farm 6; {stays}"),
    ];
    assert_eq!(told(&all), lines);

    // Who names the right one, or an image in whose place a stick has spoken, is nothing to look at.
    all.search.stick = Stick::Names(FarmId(7));
    all.search.command_line = Some(FarmId(7));
    assert_eq!(told(&all), [format!("the network names farm 9; {stays}")]);
    all.search.stick = Stick::Names(FarmId(5));
    all.search.command_line = None;
    assert_eq!(
        told(&all),
        ["the network names farm 9; this node joins farm 5, as a stick says"]
    );

    let mut new = Known::default();
    new.search.command_line = Some(FarmId(7));
    new.network = Heard::Said(Some(FarmId(9)));
    new.image = Some(FarmId(6));
    assert_eq!(
        told(&new),
        ["the network names farm 9; this node joins farm 7, as the kernel's command line says"]
    );
    new.search.command_line = None;
    assert_eq!(told(&new), [""; 0]);
}

#[test]
fn two_sticks_that_disagree_are_told() {
    let mut known = Known {
        kept: Some(FarmId(7)),
        ..Known::default()
    };
    known.search.stick = Stick::Disagree(FarmId(7), FarmId(9));
    let choice = choose(&known);
    assert_eq!(choice.to_join(), Some(FarmId(7)));
    assert!(choice.notices[0].starts_with("two sticks name different farms, 7 and 9"));
}
