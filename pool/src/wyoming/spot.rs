//! Words in a stream of sound: which pieces of it a model is to look at, and when what it says of
//! them counts as a word. Pure.

use std::time::Duration;

/// Pieces in a row that must have a word. A word is in several, noise that sounds like one seldom.
const IN_A_ROW: usize = 2;

/// Follows one stream.
#[derive(Debug)]
pub struct Spotter {
    rate: u32,
    /// Samples of a piece.
    window: usize,
    /// From one piece to the next, in samples.
    step: usize,
    /// From the beginning of the next piece on.
    samples: Vec<i16>,
    /// Samples before those.
    passed: u64,
    /// A word, and how many pieces in a row had it.
    heard: Option<(usize, usize)>,
    /// It is not told again before it was absent once.
    told: Option<usize>,
}

impl Spotter {
    /// Of a stream at `rate`, for a model that takes `window` samples, at least one; `step` is
    /// rounded to whole samples.
    #[must_use]
    pub fn new(rate: u32, window: usize, step: Duration) -> Self {
        let step = (step.as_secs_f64() * f64::from(rate)).round() as usize;
        Self {
            rate,
            window: window.max(1),
            step: step.max(1),
            samples: Vec::new(),
            passed: 0,
            heard: None,
            told: None,
        }
    }

    /// Where what comes is to be put.
    pub fn samples(&mut self) -> &mut Vec<i16> {
        &mut self.samples
    }

    /// The next piece that is whole. To be asked until there is none.
    pub fn next_piece(&mut self) -> Option<Vec<i16>> {
        let piece = self.samples.get(..self.window)?.to_vec();
        let step = self.step.min(self.samples.len());
        self.samples.drain(..step);
        self.passed += step as u64;
        Some(piece)
    }

    /// The stream ends: silence follows, so that a word at its end is in as many pieces as any
    /// other.
    pub fn finish(&mut self) {
        let silence = self.window.saturating_sub(1) + self.step * (IN_A_ROW - 1);
        self.samples.resize(self.samples.len().max(1) + silence, 0);
    }

    /// What a model says of a piece: the place of the word that is in it, if any. Gives the one
    /// that is now to be told.
    pub fn heard(&mut self, word: Option<usize>) -> Option<usize> {
        if self.told.is_some() && self.told != word {
            self.told = None;
        }
        self.heard = word.map(|word| match self.heard {
            Some((before, count)) if before == word => (word, count + 1),
            _ => (word, 1),
        });
        let (word, count) = self.heard?;
        if count < IN_A_ROW || self.told == Some(word) {
            return None;
        }
        self.told = Some(word);
        Some(word)
    }

    /// Milliseconds from the stream's beginning to the end of the piece that was last given.
    #[must_use]
    pub fn position_ms(&self) -> u64 {
        let end = self.passed.saturating_sub(self.step as u64) + self.window as u64;
        end * 1000 / u64::from(self.rate.max(1))
    }
}

/// The place of the highest of some probabilities, if that is as high as `threshold`, in thousandths,
/// and one of those that `counts`.
pub fn highest(
    probabilities: &[f32],
    threshold: u16,
    counts: impl Fn(usize) -> bool,
) -> Option<usize> {
    let numbers = probabilities.iter().enumerate().filter(|(_, it)| it.is_finite());
    let (place, highest) = numbers.max_by(|a, b| a.1.total_cmp(b.1))?;
    (*highest * 1000.0 >= f32::from(threshold) && counts(place)).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spotter() -> Spotter {
        // 10 samples a second, pieces of a second, each 0.3 s.
        Spotter::new(10, 10, Duration::from_millis(300))
    }

    #[test]
    fn pieces_overlap_and_know_where_they_end() {
        let mut spotter = spotter();
        spotter.samples().extend(0..9);
        assert_eq!(spotter.next_piece(), None);
        spotter.samples().extend(9..14);
        assert_eq!(spotter.next_piece(), Some((0..10).collect()));
        assert_eq!(spotter.position_ms(), 1000);
        assert_eq!(spotter.next_piece(), Some((3..13).collect()));
        assert_eq!(spotter.position_ms(), 1300);
        assert_eq!(spotter.next_piece(), None);
    }

    #[test]
    fn a_word_is_told_once_and_only_if_it_stays() {
        let mut spotter = spotter();
        let told = [Some(1), None, Some(1), Some(1), Some(1), None, Some(1), Some(1), Some(2)]
            .map(|word| spotter.heard(word));
        assert_eq!(told, [None, None, None, Some(1), None, None, None, Some(1), None]);
        assert_eq!(spotter.heard(Some(2)), Some(2));
    }

    #[test]
    fn what_is_not_sure_or_not_asked_for_is_no_word() {
        assert_eq!(highest(&[0.1, 0.85, 0.05], 800, |_| true), Some(1));
        assert_eq!(highest(&[0.1, 0.79, 0.11], 800, |_| true), None);
        assert_eq!(highest(&[0.1, 0.85, 0.05], 800, |place| place != 1), None);
        assert_eq!(highest(&[f32::NAN, 0.9], 800, |_| true), Some(1));
        assert_eq!(highest(&[f32::INFINITY], 800, |_| true), None);
        assert_eq!(highest(&[], 800, |_| true), None);
    }

    proptest! {
        #[test]
        fn every_sample_is_in_a_piece(
            count in 0..100_usize,
            parts in prop::collection::vec(0..20_usize, 0..10),
        ) {
            let sent: Vec<i16> = (1..=count as i16).collect();
            let mut spotter = spotter();
            let mut seen = std::collections::BTreeSet::new();
            let mut rest = &sent[..];
            for part in parts.into_iter().chain([count]) {
                let (piece, after) = rest.split_at(part.min(rest.len()));
                spotter.samples().extend(piece);
                rest = after;
                while let Some(piece) = spotter.next_piece() {
                    prop_assert_eq!(piece.len(), 10);
                    seen.extend(piece);
                }
            }
            spotter.finish();
            while let Some(piece) = spotter.next_piece() {
                seen.extend(piece);
            }
            prop_assert!(sent.iter().all(|sample| seen.contains(sample)), "{:?}", seen);
        }
    }
}
