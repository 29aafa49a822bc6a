//! What clients saw of moves: when each took effect, and what went astray.

use std::time::{Duration, Instant};

use crate::latencies::micros;
use crate::probe::Packet;
use crate::visits::Visit;

/// How long before a request a datagram may have been sent that the new instance answers.
const UNDER_WAY: Duration = Duration::from_millis(5);

/// One move: when it was asked for, when the API said that it was in force, and to whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Move {
    pub(crate) asked: Instant,
    pub(crate) active: Instant,
    pub(crate) to: u8,
}

/// All moves, and what became of what the clients sent meanwhile, in the order of time.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) moves: Vec<Move>,
    pub(crate) packets: Vec<Packet>,
    pub(crate) fresh: Vec<Visit>,
    pub(crate) kept: Vec<Visit>,
}

impl Seen {
    /// How long after each request the new instance's first answer came, in microseconds.
    pub(crate) fn firsts(&self) -> Vec<u32> {
        let mut packets = self.packets.as_slice();
        let first = |one: &Move| {
            // One that was under way already may be the first to arrive at the new instance.
            let begin = packets.partition_point(|packet| packet.sent + UNDER_WAY < one.asked);
            packets = &packets[begin..];
            let answers = packets.iter().filter_map(|packet| packet.answer);
            let of_new = answers.filter(|answer| answer.mark == one.to && answer.at > one.asked);
            Some(micros(of_new.map(|answer| answer.at).next()? - one.asked))
        };
        self.moves.iter().filter_map(first).collect()
    }

    /// Tells the datagrams without an answer apart by when they were sent.
    pub(crate) fn unanswered(&self) -> Unanswered {
        let mut counted = Unanswered::default();
        let mut settled = true;
        let mut moves = self.moves.iter().peekable();
        let mut current = None;
        for packet in &self.packets {
            // One that was sent just before the request may be answered just after the change.
            while let Some(next) = moves.next_if(|one| one.asked < packet.sent + UNDER_WAY) {
                (current, settled) = (Some(next.to), false);
            }
            let reached = packet.answer.map(|answer| answer.mark);
            settled |= reached.is_some() && reached == current;
            match (reached, settled) {
                (Some(_), _) => {}
                (None, false) => counted.overtaken += 1,
                (None, true) => counted.lost += 1,
            }
        }
        counted
    }

    /// How many datagrams were sent between `active` and the next request, and how many of them
    /// another than the new instance answered.
    pub(crate) fn after_active(&self) -> (u64, u64) {
        let (mut settled, mut stale) = (0, 0);
        for (at, one) in self.moves.iter().enumerate() {
            let end = self.moves.get(at + 1).map(|next| next.asked);
            let begin = self.packets.partition_point(|packet| packet.sent <= one.active);
            let these = &self.packets[begin..];
            let these = these.iter().take_while(|packet| end.is_none_or(|end| packet.sent < end));
            for packet in these {
                settled += 1;
                // Behind the next request it may be the next one's.
                stale += u64::from(packet.answer.is_some_and(|answer| {
                    answer.mark != one.to && end.is_none_or(|end| answer.at < end)
                }));
            }
        }
        (settled, stale)
    }
}

/// What became of datagrams that nobody answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Unanswered {
    /// Sent while a move was being made, before the first one that reached the new instance: what the
    /// old one answered by then is not let through any more.
    pub(crate) overtaken: u64,
    pub(crate) lost: u64,
}

/// What became of requests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Visits {
    pub(crate) all: u64,
    pub(crate) failed: u64,
    /// Failed, and begun before a move that was in force before it ended.
    pub(crate) cut: u64,
    /// Begun when the API had said `active`, and over before the next move was asked for.
    pub(crate) settled: u64,
    /// Settled, and answered by another than the new instance.
    pub(crate) stale: u64,
}

impl Visits {
    pub(crate) fn of(visits: &[Visit], moves: &[Move]) -> Self {
        let mut counted = Self::default();
        for visit in visits {
            let failed = visit.answer.is_err();
            counted.all += 1;
            counted.failed += u64::from(failed);
            // The last move that had been asked for when it ended.
            let number = moves.partition_point(|one| one.asked < visit.ended);
            let Some(last) = number.checked_sub(1).map(|at| moves[at]) else { continue };
            if visit.began < last.active {
                counted.cut += u64::from(failed);
                continue;
            }
            counted.settled += 1;
            let new = format!("web-{}", last.to);
            counted.stale += u64::from(visit.answer.as_ref().is_ok_and(|name| *name != new));
        }
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Answer;

    /// A clock that begins at zero, in microseconds.
    fn clock() -> impl Fn(u64) -> Instant {
        let zero = Instant::now();
        move |micros| zero + Duration::from_micros(micros)
    }

    fn packet(sent: Instant, answer: Option<(Instant, u8)>) -> Packet {
        Packet { sent, answer: answer.map(|(at, mark)| Answer { at, mark }) }
    }

    #[test]
    fn a_move_is_seen_with_the_first_answer_of_the_new_instance() {
        let at = clock();
        let packets = vec![
            packet(at(900), Some((at(950), 1))),
            packet(at(1_100), Some((at(1_150), 1))),
            // Sent before the API said so: the old one may answer.
            packet(at(1_300), None),
            packet(at(1_500), Some((at(1_560), 2))),
            packet(at(1_700), Some((at(1_760), 2))),
            packet(at(1_900), Some((at(1_960), 1))),
        ];
        let moves = vec![Move { asked: at(1_000), active: at(1_600), to: 2 }];
        let seen = Seen { moves, packets, fresh: Vec::new(), kept: Vec::new() };
        assert_eq!(seen.firsts(), [560]);
        assert_eq!(
            seen.after_active(),
            (2, 1),
            "of the two sent after it the old one answered one"
        );
    }

    #[test]
    fn what_a_move_overtook_is_not_lost() {
        let at = clock();
        let packets = vec![
            packet(at(10_000), None),
            packet(at(20_100), None),
            packet(at(20_300), Some((at(20_350), 2))),
            packet(at(20_500), None),
        ];
        let moves = vec![Move { asked: at(20_000), active: at(20_600), to: 2 }];
        let seen = Seen { moves, packets, fresh: Vec::new(), kept: Vec::new() };
        assert_eq!(seen.unanswered(), Unanswered { overtaken: 1, lost: 2 });
    }

    #[test]
    fn an_answer_of_the_next_move_is_not_stale() {
        let at = clock();
        let packets = vec![packet(at(1_950), Some((at(2_050), 1)))];
        let moves = vec![
            Move { asked: at(1_000), active: at(1_600), to: 2 },
            Move { asked: at(2_000), active: at(2_600), to: 1 },
        ];
        let seen = Seen { moves, packets, fresh: Vec::new(), kept: Vec::new() };
        assert_eq!(seen.after_active(), (1, 0));
    }

    #[test]
    fn requests_are_told_apart_by_when_they_began() {
        let at = clock();
        let moves = [Move { asked: at(1_000), active: at(1_600), to: 2 }];
        let visit = |began, ended, answer: Result<&str, &str>| Visit {
            began: at(began),
            ended: at(ended),
            answer: answer.map(str::to_owned).map_err(str::to_owned),
        };
        let visits = [
            visit(500, 700, Ok("web-1")),
            visit(900, 1_200, Err("reset")),
            visit(1_700, 1_900, Ok("web-2")),
            visit(2_700, 2_900, Ok("web-1")),
            visit(3_700, 3_900, Err("timed out")),
        ];
        let counted = Visits::of(&visits, &moves);
        assert_eq!(counted, Visits { all: 5, failed: 2, cut: 1, settled: 3, stale: 1 });
    }
}
