//! The tables `/proc/interrupts` and `/proc/softirqs`: a count per source and CPU.

use std::collections::HashMap;

/// A count that seems to have run backwards is taken for one that wrapped only if that makes fewer
/// than this many since; else it started anew with its device.
const PLAUSIBLE: u32 = 1 << 26;

/// One reading of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The CPU of each column: those that were online.
    pub cpus: Vec<u32>,
    /// The lines that count per CPU.
    pub rows: Vec<Row>,
    /// Row by row, a count for each of `cpus`.
    counts: Vec<u32>,
}

/// What a line is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// What stands before the colon.
    pub label: String,
    /// Who handles it, or what it is; empty where nobody does.
    pub name: String,
}

/// What was counted between two readings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// The row in the later reading.
    pub row: usize,
    /// On all CPUs.
    pub total: u64,
    /// `(CPU, count)` where it is not 0, in order of the columns.
    pub cpus: Vec<(u32, u32)>,
}

impl Row {
    /// The kernel's number; absent for an interrupt of the processor itself.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        self.label.parse().ok()
    }
}

impl Table {
    /// From the file's text. A line that has fewer counts than the head has CPUs (`ERR`, `MIS`
    /// count for the whole machine) is left out.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let mut lines = text.split(|&byte| byte == b'\n');
        let cpus = head(lines.next().unwrap_or_default());
        let mut table = Self { cpus, ..Self::default() };
        if !table.cpus.is_empty() {
            lines.for_each(|line| table.add(line));
        }
        table
    }

    fn add(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            return;
        };
        let (label, mut rest) = (&line[..colon], &line[colon + 1..]);
        let before = self.counts.len();
        for _ in 0..self.cpus.len() {
            let Some((count, behind)) = number(rest) else {
                self.counts.truncate(before);
                return;
            };
            self.counts.push(count);
            rest = behind;
        }
        let label = String::from_utf8_lossy(label).trim().to_owned();
        let rest = String::from_utf8_lossy(rest);
        let name = if label.bytes().all(|byte| byte.is_ascii_digit()) {
            action(rest.trim())
        } else {
            rest.trim()
        };
        self.rows.push(Row { name: name.to_owned(), label });
    }

    fn counts_of(&self, row: usize) -> &[u32] {
        let columns = self.cpus.len();
        self.counts.get(row * columns..(row + 1) * columns).unwrap_or_default()
    }

    /// What was counted since `before`, row by row, without the rows that stood still. A row or a
    /// CPU that was not there before says nothing yet.
    #[must_use]
    pub fn since(&self, before: &Self) -> Vec<Delta> {
        let by_label: HashMap<&str, usize> =
            before.rows.iter().enumerate().map(|(i, row)| (row.label.as_str(), i)).collect();
        // Mostly the columns are the same; after hotplug each looks for its own.
        let columns: Vec<Option<usize>> = if self.cpus == before.cpus {
            (0..self.cpus.len()).map(Some).collect()
        } else {
            let column = |cpu| before.cpus.iter().position(|before| before == cpu);
            self.cpus.iter().map(column).collect()
        };
        let delta = |(row, now): (usize, &Row)| {
            // The number of a device that is gone may be another's by now.
            let then = *by_label.get(now.label.as_str())?;
            if before.rows[then].name != now.name {
                return None;
            }
            let (counts, counts_before) = (self.counts_of(row), before.counts_of(then));
            if counts == counts_before {
                return None;
            }
            let cpus: Vec<(u32, u32)> = self
                .cpus
                .iter()
                .zip(counts)
                .zip(&columns)
                .filter_map(|((cpu, now), column)| {
                    let count = passed(*counts_before.get((*column)?)?, *now);
                    (count > 0).then_some((*cpu, count))
                })
                .collect();
            let total = cpus.iter().map(|(_, count)| u64::from(*count)).sum();
            (total > 0).then_some(Delta { row, total, cpus })
        };
        self.rows.iter().enumerate().filter_map(delta).collect()
    }
}

/// The kernel counts in 32 bits and lets them wrap.
fn passed(before: u32, now: u32) -> u32 {
    let count = now.wrapping_sub(before);
    if now >= before || count < PLAUSIBLE { count } else { now }
}

/// From `   CPU0   CPU1   CPU4`.
fn head(line: &[u8]) -> Vec<u32> {
    let line = String::from_utf8_lossy(line);
    line.split_ascii_whitespace()
        .map_while(|column| column.strip_prefix("CPU")?.parse().ok())
        .collect()
}

/// The first field as a number, and what stands behind it.
fn number(text: &[u8]) -> Option<(u32, &[u8])> {
    let start = text.iter().position(|byte| *byte != b' ' && *byte != b'\t')?;
    let text = &text[start..];
    let length = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, behind) = text.split_at(length);
    if digits.is_empty() || behind.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
        return None;
    }
    // Softirqs and a few architectures' lines are printed wider than the 32 bits they wrap at.
    let value = digits
        .iter()
        .fold(0_u32, |value, digit| value.wrapping_mul(10).wrapping_add(u32::from(digit - b'0')));
    Some((value, behind))
}

/// The handlers' names, behind the chip, the number in the chip and the flow (`IO-APIC   5-edge
/// ttyS0`, `GICv3  27 Level     arch_timer`, `xen-percpu    -virq      timer0`). The kernel puts
/// two spaces before the first name, and single ones inside.
fn action(text: &str) -> &str {
    match text.rsplit_once("  ") {
        Some((_, last)) if !is_flow(last) => last.trim_start(),
        _ => "",
    }
}

/// `5-edge`, `27 Level`, `-virq`, `524288`.
fn is_flow(text: &str) -> bool {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
    let level = ["Level", "Edge"].into_iter().find_map(|word| rest.strip_prefix(word));
    let rest = level.unwrap_or(rest).trim_start();
    rest.is_empty() || (rest.starts_with('-') && !rest.contains(' '))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const X86: &str = "           CPU0       CPU1       \n\
        \u{20} 8:          0          0   IO-APIC   8-edge      rtc0\n\
        \u{20} 9:          7          0   IO-APIC   9-fasteoi   acpi, i801_smbus\n\
        \u{20}16:          1          2   IO-APIC  16-fasteoi\n\
        \u{20}38:          0      15063 PCI-MSIX-0000:00:03.0   0-edge      virtio2-input.0\n\
        \u{20}90:         10         20 PCI-MSI 524288-edge      nvme0q0\n\
        \u{20}91:         10         20 xen-percpu    -virq      timer0\n\
        \u{20}92:         10         20 PCI-MSI 49152-edge      my odd device\n\
        NMI:          0          0   Non-maskable interrupts\n\
        LOC:    2875085    2904996   Local timer interrupts\n\
        ERR:          0\n\
        MIS:          0\n\
        PIN:          0          0   Posted-interrupt notification event\n";

    const ARM: &str = "           CPU0       CPU1       CPU3\n\
        \u{20}11:     128      256   512     GICv3  27 Level     arch_timer\n\
        \u{20}14:       0        0     1     GICv3 150 Edge\n\
        IPI0:       5        6     7       Rescheduling interrupts\n\
        Err:          0\n";

    fn names(table: &Table) -> Vec<(&str, &str)> {
        table.rows.iter().map(|row| (row.label.as_str(), row.name.as_str())).collect()
    }

    #[test]
    fn handlers_are_named_whatever_stands_before_them() {
        let table = Table::parse(X86.as_bytes());
        assert_eq!(
            names(&table),
            [
                ("8", "rtc0"),
                ("9", "acpi, i801_smbus"),
                ("16", ""),
                ("38", "virtio2-input.0"),
                ("90", "nvme0q0"),
                ("91", "timer0"),
                ("92", "my odd device"),
                ("NMI", "Non-maskable interrupts"),
                ("LOC", "Local timer interrupts"),
                ("PIN", "Posted-interrupt notification event"),
            ]
        );
        let table = Table::parse(ARM.as_bytes());
        assert_eq!(table.cpus, [0, 1, 3]);
        assert_eq!(
            names(&table),
            [("11", "arch_timer"), ("14", ""), ("IPI0", "Rescheduling interrupts")]
        );
        assert_eq!((table.rows[0].number(), table.rows[2].number()), (Some(11), None));
    }

    #[test]
    fn softirqs_have_no_names_behind() {
        let text = "                    CPU0       CPU1       \n          HI:          0          1\n       TIMER:     261485     304480\n";
        let table = Table::parse(text.as_bytes());
        assert_eq!(names(&table), [("HI", ""), ("TIMER", "")]);
        assert_eq!(table.counts_of(1), [261_485, 304_480]);
    }

    #[test]
    fn a_cpu_that_comes_or_goes_moves_no_count_to_another() {
        let before = Table::parse(b"  CPU0 CPU1 CPU2\n 5: 10 20 30 chip 5-edge  disk\n");
        let after = Table::parse(b"  CPU0 CPU2 CPU3\n 5: 11 33 99 chip 5-edge  disk\n");
        assert_eq!(
            after.since(&before),
            [Delta { row: 0, total: 4, cpus: vec![(0, 1), (2, 3)] }],
            "CPU 3 was not there before, so what it counted may be old"
        );
    }

    #[test]
    fn counts_wrap_and_devices_start_anew() {
        assert_eq!(passed(u32::MAX - 4, 5), 10);
        assert_eq!(passed(3_000_000_000, 10), 10);
        let before = Table::parse(b" CPU0\n 5: 10 chip 5-edge  disk\n");
        let other = Table::parse(b" CPU0\n 5: 30 chip 5-edge  sound\n");
        assert_eq!(other.since(&before), [], "the number has another device now");
    }

    #[test]
    fn rows_that_stand_still_say_nothing() {
        let table = Table::parse(X86.as_bytes());
        assert_eq!(table.since(&table), []);
    }

    proptest! {
        #[test]
        fn no_text_panics(a in "(CPU[0-9]{1,11}|[0-9]{1,22}|[A-Z]{3}|[ \n:-]|edge)*",
                          b in "(CPU[0-9]{1,11}|[0-9]{1,22}|[A-Z]{3}|[ \n:-]|edge)*") {
            let (a, b) = (Table::parse(a.as_bytes()), Table::parse(b.as_bytes()));
            for delta in b.since(&a) {
                prop_assert!(delta.row < b.rows.len() && delta.total > 0);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Table::parse(&bytes);
        }

        #[test]
        fn any_table_is_read_back(
            cpus in prop::collection::btree_set(0_u32..5000, 1..40),
            rows in prop::collection::vec((any::<u32>(), "[a-z][a-z0-9.:_-]{0,9}( [a-z]{1,4})?"), 0..20),
        ) {
            let mut text: String = cpus.iter().map(|cpu| format!("  CPU{cpu}")).collect();
            for (number, (count, name)) in rows.iter().enumerate() {
                text.push_str(&format!("\n{number:4}:"));
                for index in 0..cpus.len() {
                    text.push_str(&format!(" {:10}", count.wrapping_add(index as u32)));
                }
                text.push_str(&format!("  PCI-MSI {number}-edge      {name}"));
            }
            let table = Table::parse(text.as_bytes());
            prop_assert_eq!(&table.cpus, &cpus.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(table.rows.len(), rows.len());
            for (index, (count, name)) in rows.iter().enumerate() {
                prop_assert_eq!(&table.rows[index].name, name);
                prop_assert_eq!(table.counts_of(index)[0], *count);
            }
        }
    }
}
