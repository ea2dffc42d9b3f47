//! Who has the CPU when: fixed turns, and how long they kept somebody waiting.

use serde::{Deserialize, Serialize};

/// Slices in which the occupants take their turns, before a pause.
const WORKING: u64 = 10;
/// Slices in which none of them runs. With [`WORKING`] this leaves the rest of the host one sixth
/// of the CPU, well above what the kernel's real-time throttling would take by force (5 %).
const RESTING: u64 = 2;

/// An interval, `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub from_ns: u64,
    pub to_ns: u64,
}

impl Turn {
    pub fn length(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns)
    }

    fn shared_with(&self, other: &Self) -> u64 {
        let from_ns = self.from_ns.max(other.from_ns);
        let to_ns = self.to_ns.min(other.to_ns);
        to_ns.saturating_sub(from_ns)
    }
}

/// The turns of one occupant: the part from `before` to `before + share` (in hundredths) of each
/// working slice between `begin` and `end`.
pub fn turns(
    (begin, end): (u64, u64),
    slice: u64,
    before: u64,
    share: u64,
) -> impl Iterator<Item = Turn> {
    (0..)
        .filter(|index| index % (WORKING + RESTING) < WORKING)
        .map(move |index| begin + index * slice)
        .take_while(move |start| start + slice <= end)
        .map(move |start| Turn {
            from_ns: start + slice * before / 100,
            to_ns: start + slice * (before + share) / 100,
        })
}

/// How much of `waits` lay in `turns`. Neither list overlaps itself.
pub fn shared_ns(turns: &[Turn], waits: &[Turn]) -> u64 {
    waits.iter().flat_map(|wait| turns.iter().map(|turn| turn.shared_with(wait))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_fill_each_working_slice_and_leave_one_sixth_of_the_time() {
        let both: Vec<Vec<Turn>> = [(0, 70), (70, 30)]
            .iter()
            .map(|&(before, share)| turns((1000, 25_000), 1000, before, share).collect())
            .collect();
        assert_eq!(both[0][..2], [turn(1000, 1700), turn(2000, 2700)]);
        assert_eq!(both[1][9..11], [turn(10_700, 11_000), turn(13_700, 14_000)]);
        let held: u64 = both.iter().flatten().map(Turn::length).sum();
        assert_eq!(held, 24_000 * 10 / 12);
    }

    #[test]
    fn only_what_lies_in_both_is_shared() {
        let turns = [turn(10, 20), turn(30, 40), turn(50, 60)];
        assert_eq!(shared_ns(&turns, &[turn(0, 15), turn(18, 35), turn(40, 50)]), 5 + 2 + 5);
    }

    fn turn(from_ns: u64, to_ns: u64) -> Turn {
        Turn { from_ns, to_ns }
    }
}
