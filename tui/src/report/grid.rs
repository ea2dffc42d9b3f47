//! Tables that fit: columns have a rank, and the last ranks go first when the width is short.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::Paper;
use crate::text::{self, Align};
use crate::theme::Ink;

/// One column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Heading.
    pub title: &'static str,
    /// Columns that it takes at least; below this it is left out.
    pub min: usize,
    /// Columns that it takes at most; the last column may be boundless.
    pub max: usize,
    /// Side on which cells stand.
    pub align: Align,
    /// 0 is left out last.
    pub rank: u8,
}

/// One cell.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Text.
    pub text: String,
    /// What stands for the text where that is too wide.
    pub short: Option<String>,
    /// Its ink.
    pub ink: Ink,
}

impl Cell {
    /// An ordinary cell.
    #[must_use]
    pub fn plain(text: impl Into<String>) -> Self {
        Self::new(Ink::Plain, text)
    }

    /// A cell in an ink.
    #[must_use]
    pub fn new(ink: Ink, text: impl Into<String>) -> Self {
        Self { text: text.into(), short: None, ink }
    }
}

/// A column that is shown, and its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Index into the columns.
    pub index: usize,
    /// Its width.
    pub width: usize,
}

/// Chooses the columns that fit into `width`, one blank between two, and gives each up to its
/// `natural` width in order of rank.
#[must_use]
pub fn choose(columns: &[Column], natural: &[usize], width: usize) -> Vec<Chosen> {
    let mut by_rank: Vec<usize> = (0..columns.len()).collect();
    by_rank.sort_by_key(|&i| columns[i].rank);
    let mut left = width + 1;
    let mut widths = vec![None; columns.len()];
    for &i in &by_rank {
        if columns[i].min < left {
            widths[i] = Some(columns[i].min);
            left -= columns[i].min + 1;
        } else if widths.iter().all(Option::is_none) && width > 0 {
            // Better the most important column cut than an empty table.
            widths[i] = Some(width);
            left = 0;
        }
    }
    for &i in &by_rank {
        let column = &columns[i];
        let wanted = natural[i].max(text::width(column.title)).min(column.max);
        if let Some(current) = &mut widths[i] {
            let more = wanted.saturating_sub(*current).min(left);
            *current += more;
            left -= more;
        }
    }
    widths
        .into_iter()
        .enumerate()
        .filter_map(|(index, width)| width.map(|width| Chosen { index, width }))
        .collect()
}

/// The heading, as wide as the paper. `sorted` is a column and whether it ascends.
#[must_use]
pub fn heading(
    columns: &[Column],
    chosen: &[Chosen],
    paper: Paper,
    sorted: Option<(usize, bool)>,
) -> Line<'static> {
    let mut spans = Vec::new();
    let mut used = 0;
    for (n, &Chosen { index, width }) in chosen.iter().enumerate() {
        let column = &columns[index];
        if n > 0 {
            spans.push(paper.span(Ink::Heading, " "));
            used += 1;
        }
        let (ink, title) = match sorted {
            Some((key, ascending)) if key == index => {
                let arrow = if ascending { '▲' } else { '▼' };
                // The arrow goes where it costs no letter of the title.
                let room = text::width(column.title) < width;
                let title = match (room, column.align) {
                    (false, _) => column.title.to_owned(),
                    (true, Align::Left) => format!("{}{arrow}", column.title),
                    (true, Align::Right) => format!("{arrow}{}", column.title),
                };
                (Ink::SortedHeading, title)
            }
            _ => (Ink::Heading, column.title.to_owned()),
        };
        spans.push(paper.span(ink, text::fit(&title, width, column.align)));
        used += width;
    }
    spans.push(paper.span(Ink::Heading, " ".repeat(paper.width.saturating_sub(used))));
    Line::from(spans)
}

/// One row; with `over`, all of it in that style and as wide as the paper.
#[must_use]
pub fn row(
    columns: &[Column],
    chosen: &[Chosen],
    cells: &[Cell],
    paper: Paper,
    over: Option<Ink>,
) -> Line<'static> {
    let mut spans = Vec::with_capacity(chosen.len() * 2);
    let mut used = 0;
    for (n, &Chosen { index, width }) in chosen.iter().enumerate() {
        if n > 0 {
            spans.push(Span::raw(" "));
            used += 1;
        }
        let cell = &cells[index];
        let ink = over.unwrap_or(cell.ink);
        let shown = match &cell.short {
            Some(short) if text::width(&cell.text) > width => short,
            _ => &cell.text,
        };
        spans.push(paper.span(ink, text::fit(shown, width, columns[index].align)));
        used += width;
    }
    let Some(over) = over else {
        return Line::from(spans);
    };
    spans.push(Span::raw(" ".repeat(paper.width.saturating_sub(used))));
    let style: Style = paper.theme.style(over);
    Line::from(spans.into_iter().map(|s| s.style(style)).collect::<Vec<_>>())
}

/// A whole table; nothing without rows.
#[must_use]
pub fn table(columns: &[Column], rows: &[Vec<Cell>], paper: Paper) -> Vec<Line<'static>> {
    if rows.is_empty() {
        return Vec::new();
    }
    let natural: Vec<usize> = (0..columns.len())
        .map(|i| rows.iter().map(|r| text::width(&r[i].text)).max().unwrap_or(0))
        .collect();
    let chosen = choose(columns, &natural, paper.width);
    let mut lines = vec![heading(columns, &chosen, paper, None)];
    lines.extend(rows.iter().map(|cells| row(columns, &chosen, cells, paper, None)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column { title: "PID", min: 4, max: 7, align: Align::Right, rank: 1 },
        Column { title: "USER", min: 4, max: 8, align: Align::Left, rank: 2 },
        Column { title: "COMMAND", min: 6, max: usize::MAX, align: Align::Left, rank: 0 },
    ];

    fn widths(width: usize) -> Vec<(usize, usize)> {
        choose(&COLUMNS, &[7, 8, 200], width).iter().map(|c| (c.index, c.width)).collect()
    }

    #[test]
    fn the_last_rank_goes_first() {
        assert_eq!(widths(16), [(0, 4), (1, 4), (2, 6)]);
        assert_eq!(widths(15), [(0, 4), (2, 10)]);
        assert_eq!(widths(10), [(2, 10)]);
        assert_eq!(widths(3), [(2, 3)]);
        assert_eq!(widths(0), []);
    }

    #[test]
    fn a_table_never_exceeds_its_width() {
        for width in 1..250 {
            let used: usize = widths(width).iter().map(|(_, w)| w + 1).sum::<usize>() - 1;
            assert!(used <= width, "{used} in {width}");
        }
    }
}
