//! Which time is believed, of what several servers answered.
//!
//! An answer before the floor is refused. Authenticated ones (NTS) count first: the largest group
//! that agrees, if it is most of them. Plain ones, which whoever is on the way may forge, count only
//! if there is nothing authenticated, if at least three servers were asked and most of these agree,
//! and if the time is within a day of a block that was seen finalized since this boot.
//!
//! Before a block was seen plain ones do not count at all: of a forged time in the far future the
//! certificates of NTS servers and of the chain's endpoints have ended, so that nobody could put it
//! right. The chain needs no clock that is set, so its block comes without.

use crate::{floor::Floor, instant::Nanos};

/// Answers this near to each other agree.
const AGREE: Nanos = Nanos::seconds(60);
/// Plain answers count only where so many servers were asked.
const LEAST_PLAIN: usize = 3;

/// What one server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub server: String,
    /// Whether NTS proved that the server said it.
    pub authenticated: bool,
    /// The time of day when the kernel started, by this server. Unlike the time itself it does not
    /// change between the answer and its use.
    pub boot: Nanos,
    /// From the question to the answer, which bounds how wrong `boot` can be.
    pub delay: Nanos,
}

/// What to do with the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The time of day when the kernel started.
    pub boot: Nanos,
    pub authenticated: bool,
    /// Who is believed, for people.
    pub source: String,
}

impl Decision {
    /// Holds a plain answer to the clock that NTS has set since this boot, if it has; that gives the
    /// time of day when the kernel started as `proved`. Whoever is on the way can silence NTS, and
    /// would else put the clock where he likes within a day of the chain. What a quartz drifts
    /// between two answers is far less than a minute.
    ///
    /// # Errors
    ///
    /// Why it is not believed, for people.
    pub fn held_to(self, proved: Option<Nanos>) -> Result<Self, String> {
        match proved {
            Some(boot) if !self.authenticated && (self.boot - boot).abs() > AGREE => Err(
                "time servers without NTS are more than a minute from the clock that NTS has set"
                    .to_owned(),
            ),
            _ => Ok(self),
        }
    }
}

/// Judges what was answered by the servers asked (`asked_plain` of them without NTS) when the kernel
/// had run for `up`.
///
/// # Errors
///
/// Why no time is believed, for people.
pub fn judge(
    answers: &[Answer],
    asked_plain: usize,
    floor: &Floor,
    up: Nanos,
) -> Result<Decision, String> {
    let lowest = Nanos::from(floor.time());
    let (late, early): (Vec<&Answer>, Vec<&Answer>) = answers
        .iter()
        .partition(|answer| answer.boot + up >= lowest);
    let (proved, plain): (Vec<&Answer>, Vec<&Answer>) =
        late.into_iter().partition(|answer| answer.authenticated);
    if !proved.is_empty() {
        let group = largest_group(&proved);
        if group.len() * 2 > proved.len() {
            return Ok(decision(&group, true));
        }
        return Err(format!(
            "{} servers of NTS contradict each other",
            proved.len()
        ));
    }
    if plain.is_empty() {
        return Err(match early.first() {
            Some(answer) => format!(
                "{} says a time that has surely passed long ago",
                answer.server
            ),
            None => "no time server answers".to_owned(),
        });
    }
    if asked_plain < LEAST_PLAIN {
        return Err(format!(
            "without NTS at least {LEAST_PLAIN} servers are to be asked; there are {asked_plain}"
        ));
    }
    let group = largest_group(&plain);
    if group.len() * 2 <= asked_plain {
        return Err(format!(
            "of {asked_plain} time servers without NTS only {} agree",
            group.len()
        ));
    }
    let chosen = decision(&group, false);
    let Some(block) = floor.block() else {
        return Err(
            "time servers without NTS count when a finalized block of the chain was seen; none was \
             yet"
            .to_owned(),
        );
    };
    if !(chosen.boot + up).to_unix().is_near(block) {
        return Err(
            "time servers without NTS are more than a day from the chain's finalized block"
                .to_owned(),
        );
    }
    Ok(chosen)
}

/// The largest set of answers within [`AGREE`] of each other.
pub(crate) fn largest_group<'a>(answers: &[&'a Answer]) -> Vec<&'a Answer> {
    let mut sorted = answers.to_vec();
    sorted.sort_by_key(|answer| answer.boot);
    let group_from = |from: usize| {
        let first = sorted[from].boot;
        sorted[from..]
            .iter()
            .take_while(move |answer| answer.boot - first <= AGREE)
            .count()
    };
    let Some(from) = (0..sorted.len()).max_by_key(|from| (group_from(*from), usize::MAX - from))
    else {
        return Vec::new();
    };
    sorted[from..from + group_from(from)].to_vec()
}

/// Of those who agree, the one whose answer took the least time can be the least wrong.
fn decision(group: &[&Answer], authenticated: bool) -> Decision {
    let best = group
        .iter()
        .min_by_key(|answer| (answer.delay, &answer.server))
        .expect("a group that was chosen has a member");
    let kind = if authenticated { "NTS" } else { "NTP" };
    let others = match group.len() - 1 {
        0 => String::new(),
        others => format!(" and {others} that agree"),
    };
    Decision {
        boot: best.boot,
        authenticated,
        source: format!("{}{others} ({kind})", best.server),
    }
}

#[cfg(test)]
mod tests {
    use loam_node_api::clock::UnixTime;
    use proptest::prelude::*;

    use super::*;

    const BUILT: u64 = 1_700_000_000;
    const UP: Nanos = Nanos::seconds(100);
    const NOW: i128 = 1_750_000_000;

    fn answer(server: &str, authenticated: bool, now: i128, delay_ms: i128) -> Answer {
        Answer {
            server: server.to_owned(),
            authenticated,
            boot: Nanos::seconds(now) - UP,
            delay: Nanos(delay_ms * 1_000_000),
        }
    }

    fn nts(server: &str, now: i128) -> Answer {
        answer(server, true, now, 20)
    }

    fn ntp(server: &str, now: i128) -> Answer {
        answer(server, false, now, 20)
    }

    /// When a block was seen that is minutes old.
    fn judged(answers: &[Answer], asked_plain: usize) -> Result<Decision, String> {
        judge(answers, asked_plain, &seen(Some(NOW - 300)), UP)
    }

    fn seen(block: Option<i128>) -> Floor {
        let mut floor = Floor::new(UnixTime(BUILT));
        if let Some(block) = block {
            assert!(floor.finalized_block(Nanos::seconds(block).to_unix(), None));
        }
        floor
    }

    fn time(decision: &Decision) -> i128 {
        (decision.boot + UP).to_unix().0.into()
    }

    #[test]
    fn one_authenticated_answer_is_enough_and_goes_before_plain_ones() {
        let decision = judged(
            &[
                nts("a", NOW),
                ntp("b", NOW + 4000),
                ntp("c", NOW + 4000),
                ntp("d", NOW + 4000),
            ],
            3,
        )
        .unwrap();
        assert_eq!(time(&decision), NOW);
        assert_eq!(
            (decision.authenticated, decision.source.as_str()),
            (true, "a (NTS)")
        );
    }

    #[test]
    fn most_authenticated_answers_must_agree() {
        let decision = judged(&[nts("a", NOW), nts("b", NOW + 5), nts("c", NOW + 999)], 0).unwrap();
        assert_eq!(time(&decision), NOW);
        assert_eq!(decision.source, "a and 1 that agree (NTS)");
        let error = judged(&[nts("a", NOW), nts("c", NOW + 999)], 0).unwrap_err();
        assert_eq!(error, "2 servers of NTS contradict each other");
        // 60 seconds are still agreement, one more is not.
        judged(&[nts("a", NOW), nts("c", NOW + 60)], 0).unwrap();
        judged(&[nts("a", NOW), nts("c", NOW + 61)], 0).unwrap_err();
    }

    #[test]
    fn of_those_who_agree_the_quickest_is_taken() {
        let decision = judged(
            &[
                answer("slow", true, NOW, 900),
                answer("quick", true, NOW + 1, 3),
            ],
            0,
        )
        .unwrap();
        assert_eq!(time(&decision), NOW + 1);
    }

    #[test]
    fn plain_answers_need_most_of_three_servers() {
        let three = [ntp("a", NOW), ntp("b", NOW + 1), ntp("c", NOW + 2)];
        let decision = judged(&three, 3).unwrap();
        assert_eq!(
            (decision.authenticated, decision.source.as_str()),
            (false, "a and 2 that agree (NTP)")
        );
        // One of the three is silent or lies.
        judged(&three[..2], 3).unwrap();
        judged(
            &[three[0].clone(), three[1].clone(), ntp("c", NOW + 9999)],
            3,
        )
        .unwrap();
        // Two that agree, of four that were asked, are no majority.
        assert_eq!(
            judged(&three[..2], 4).unwrap_err(),
            "of 4 time servers without NTS only 2 agree"
        );
        // Within a minute they agree, a second more and they do not.
        judged(
            &[ntp("a", NOW), ntp("b", NOW + 60), ntp("c", NOW + 9999)],
            3,
        )
        .unwrap();
        assert_eq!(
            judged(&[ntp("a", NOW), ntp("b", NOW + 61), ntp("c", NOW + 122)], 3).unwrap_err(),
            "of 3 time servers without NTS only 1 agree"
        );
        // Each within a minute of its neighbour is not all within one.
        let spread: Vec<Answer> = (0..5).map(|n| ntp("a", NOW + 40 * n)).collect();
        judged(&spread, 5).unwrap_err();
        // Two servers are too few even when both agree.
        assert!(judged(&three[..2], 2).unwrap_err().contains("at least 3"));
    }

    #[test]
    fn an_answer_before_the_floor_counts_for_nobody() {
        let unseen = |answers: &[Answer]| judge(answers, 3, &seen(None), UP);
        let old = i128::from(BUILT) - 1;
        let error = unseen(&[nts("a", old)]).unwrap_err();
        assert!(error.starts_with("a says"), "{error}");
        unseen(&[nts("a", old + 1)]).unwrap();
        let decision = unseen(&[nts("a", old), nts("b", old), nts("c", NOW)]).unwrap();
        assert_eq!(time(&decision), NOW);
        // One of NTS that is refused leaves the word to plain ones.
        let near = |answers: &[Answer]| judge(answers, 3, &seen(Some(NOW)), UP);
        let decision = near(&[nts("a", old), ntp("b", NOW), ntp("c", NOW)]).unwrap();
        assert!(!decision.authenticated);
        // Plain, a block that is as old as the build, and one that is older.
        for block in [BUILT, BUILT - 600] {
            let near = |answers: &[Answer]| judge(answers, 3, &seen(Some(block.into())), UP);
            near(&[ntp("a", old + 1), ntp("b", old + 1), ntp("c", old)]).unwrap();
            near(&[ntp("a", old), ntp("b", old), ntp("c", old + 1)]).unwrap_err();
            let error = near(&[ntp("a", old), ntp("b", old), ntp("c", old)]).unwrap_err();
            assert!(error.contains("has surely passed"), "{error}");
        }
        assert_eq!(unseen(&[]).unwrap_err(), "no time server answers");
    }

    #[test]
    fn plain_answers_wait_for_a_block_and_stay_within_a_day_of_it() {
        let all = |now| [ntp("a", now), ntp("b", now), ntp("c", now)];
        let error = judge(&all(NOW), 3, &seen(None), UP).unwrap_err();
        assert!(error.contains("none was yet"), "{error}");
        let block = NOW - 400_000;
        let floor = seen(Some(block));
        judge(&all(block), 3, &floor, UP).unwrap();
        judge(&all(block + 86_400), 3, &floor, UP).unwrap();
        for far in [block + 86_401, block + 40 * 365 * 86_400] {
            let error = judge(&all(far), 3, &floor, UP).unwrap_err();
            assert!(error.contains("more than a day"), "{error}");
        }
        // What is before the block is before the floor.
        for far in [block - 1, block - 86_401] {
            let error = judge(&all(far), 3, &floor, UP).unwrap_err();
            assert!(error.contains("has surely passed"), "{error}");
        }
        // An authenticated answer is not held to the chain.
        judge(&[nts("a", block + 86_401)], 0, &floor, UP).unwrap();
        judge(&[nts("a", NOW)], 0, &seen(None), UP).unwrap();
    }

    #[test]
    fn a_clock_that_nts_has_set_is_moved_by_plain_answers_no_more_than_a_minute() {
        let says = |authenticated, seconds| {
            let decision = Decision {
                boot: Nanos::seconds(NOW + seconds),
                authenticated,
                source: String::new(),
            };
            move |proved: Option<i128>| decision.held_to(proved.map(Nanos::seconds))
        };
        for seconds in [-60, 0, 60] {
            says(false, seconds)(Some(NOW)).unwrap();
        }
        for seconds in [-61, 61] {
            let error = says(false, seconds)(Some(NOW)).unwrap_err();
            assert!(error.contains("more than a minute"), "{error}");
            says(false, seconds)(None).unwrap();
            says(true, seconds)(Some(NOW)).unwrap();
        }
    }

    proptest! {
        /// Whatever is said: what is believed was said by somebody, not before the floor, and if it
        /// is plain then by most of those asked, and confirmed by a block.
        #[test]
        fn nothing_is_believed_that_a_minority_made_up(
            said in prop::collection::vec(
                (any::<bool>(), prop_oneof![
                    NOW - 40..NOW + 40,
                    NOW - 100_000..NOW + 100_000,
                    0i128..4_000_000_000,
                ]),
                0..8,
            ),
            silent in 0usize..4,
            block in prop::option::of(NOW - 100_000..NOW + 100_000),
        ) {
            let answers: Vec<Answer> = said
                .iter()
                .enumerate()
                .map(|(n, (proved, now))| answer(&n.to_string(), *proved, *now, 20))
                .collect();
            let asked = answers.iter().filter(|a| !a.authenticated).count() + silent;
            let floor = seen(block);
            if let Ok(decision) = judge(&answers, asked, &floor, UP) {
                let now = decision.boot + UP;
                prop_assert!(now >= Nanos::from(floor.time()));
                let near = |a: &&Answer| {
                    a.authenticated == decision.authenticated
                        && (a.boot - decision.boot).abs() <= AGREE
                };
                let agree = answers.iter().filter(near).count();
                prop_assert!(agree > 0);
                if !decision.authenticated {
                    prop_assert!(asked >= 3 && agree * 2 > asked);
                    let block = block.map(Nanos::seconds);
                    prop_assert!(block.is_some_and(|block| now - block <= Nanos::seconds(86_400)));
                }
            }
        }
    }
}
