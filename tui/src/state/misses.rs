//! The misses that the screen knows, and the cursor among them.

use downbeat_api::Miss;

/// Misses that are kept, as many as the agent keeps.
pub const MOST: usize = 256;

/// The latest misses. A snapshot brings the last few; the rest is asked for.
#[derive(Clone, Debug, Default)]
pub struct Misses {
    /// Newest first, as they are shown.
    pub all: Vec<Miss>,
    /// The cursor's row.
    pub cursor: usize,
    /// First row on the screen.
    pub offset: usize,
    /// The miss that the cursor follows; absent while it rests on the newest.
    followed: Option<u64>,
}

impl Misses {
    /// Takes in what a snapshot or an answer says, newest last. The two may come in any order.
    pub fn take(&mut self, said: &[Miss]) {
        let new = said.iter().filter(|miss| !self.all.iter().any(|known| known.id == miss.id));
        let new: Vec<Miss> = new.cloned().collect();
        if !new.is_empty() {
            self.all.extend(new);
            self.all.sort_by_key(|miss| std::cmp::Reverse(miss.id));
            self.all.truncate(MOST);
        }
        let place = self.followed.and_then(|id| self.all.iter().position(|m| m.id == id));
        self.go_to(place.unwrap_or(self.cursor));
    }

    /// The miss under the cursor.
    #[must_use]
    pub fn under_cursor(&self) -> Option<&Miss> {
        self.all.get(self.cursor)
    }

    /// Puts the cursor on a row, or on the last one.
    pub fn go_to(&mut self, row: usize) {
        self.cursor = row.min(self.all.len().saturating_sub(1));
        self.followed =
            if self.cursor == 0 { None } else { self.under_cursor().map(|miss| miss.id) };
    }

    /// Moves the first row on the screen so that the cursor is among `height` rows.
    pub fn scroll_into(&mut self, height: usize) {
        let last_offset = self.all.len().saturating_sub(height);
        let lowest = (self.cursor + 1).saturating_sub(height.max(1));
        self.offset = self.offset.clamp(lowest, self.cursor.max(lowest)).min(last_offset);
    }
}
