//! Sets of CPUs: numbers as the kernel writes them in sysfs (`0-3,6`), and names for what the host
//! says of its CPUs (`performance`, `node-0&smt-first,!0`).

use std::fmt;
use std::str::FromStr;

/// The highest CPU number that is accepted: the kernel's own upper limit (`NR_CPUS`) on x86 is
/// 8192 CPUs.
pub const HIGHEST_CPU: u32 = 8191;

/// Most names in one list; numbers may be as many as there are.
const MOST_NAMES: usize = 64;

/// CPUs to run on: those of `with` that are not in `without`. A list of exclusions alone starts
/// from all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuChoice {
    with: CpuSum,
    without: CpuSum,
}

/// Several sets together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct CpuSum {
    /// By number, ascending, without repeats, none above [`HIGHEST_CPU`].
    numbers: Vec<u32>,
    /// Each is what all of its groups share (`node-0&smt-first`).
    products: Vec<Vec<CpuGroup>>,
}

/// A set of CPUs that the host knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CpuGroup {
    /// `all`: every CPU that is online.
    All,
    /// `performance`: at least three quarters of the largest capacity; all, where they are equal.
    Performance,
    /// `efficiency`: less than that; all, where they are equal.
    Efficiency,
    /// `isolated`: kept from the scheduler's balancing (`isolcpus=`).
    Isolated,
    /// `smt-first`: the first hardware thread of each core.
    SmtFirst,
    /// `node-N`: of memory node N.
    Node(u32),
    /// `llc-N`: that share the Nth last-level cache, from 0 in the order of their first CPUs.
    Llc(u32),
    /// `near-gpu-N`: of the memory node that the Nth GPU hangs on, from 0 in the order of their PCI
    /// addresses.
    NearGpu(u32),
}

/// What a [`CpuChoice`] comes to on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChosenCpus {
    /// Ascending, without repeats; empty where the host has none of them.
    pub cpus: Vec<u32>,
    /// What the host does not have: numbers first (`CPU 57`, `CPU 90-99`), then groups in the order
    /// of their first mention.
    pub missing: Vec<String>,
}

/// Why a list of CPUs was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuListError {
    /// No CPU in it.
    #[error("the list of CPUs is empty; write `all` or numbers as in \"0-3,6\"")]
    Empty,
    /// Not a number, a range, a name or something between them.
    #[error(
        "`{}` is neither a CPU number, a range like 0-3 nor one of all, performance, efficiency, \
         isolated, smt-first, node-0, llc-0, near-gpu-0", .0.escape_debug()
    )]
    Malformed(String),
    /// A range that ends before it starts.
    #[error("the range {0}-{1} is empty; write {1}-{0}")]
    Backwards(u32, u32),
    /// Above [`HIGHEST_CPU`].
    #[error("{0} is out of range; {HIGHEST_CPU} is the highest number that Linux gives")]
    TooHigh(String),
    /// More than [`MOST_NAMES`].
    #[error("more than {MOST_NAMES} names in one list of CPUs; write the numbers")]
    TooManyNames,
    /// All that is listed is taken away again.
    #[error(
        "`!` takes away all that the list names, so no CPU can be left; name one that may stay"
    )]
    NothingLeft,
    /// A number in a product.
    #[error(
        "`{}`: `&` stands between names only, as in node-0&smt-first; write the numbers that are \
         meant", .0.escape_debug()
    )]
    NumberInProduct(String),
}

impl CpuChoice {
    /// Every CPU that is online.
    #[must_use]
    pub fn all() -> Self {
        let products = vec![vec![CpuGroup::All]];
        Self { with: CpuSum { products, ..CpuSum::default() }, without: CpuSum::default() }
    }

    /// The CPUs of this choice on a host with the CPUs `online`; `group` says which CPUs a group
    /// has there, or nothing where the host has no such group. What is not there is left out.
    pub fn resolve(
        &self,
        online: &[u32],
        group: impl Fn(CpuGroup) -> Option<Vec<u32>>,
    ) -> ChosenCpus {
        let lacks = |cpu: &u32| !online.contains(cpu) && !self.without.numbers.contains(cpu);
        let absent: Vec<u32> = self.with.numbers.iter().copied().filter(lacks).collect();
        let mut missing: Vec<String> =
            ranges(&absent).map(|numbers| format!("CPU {numbers}")).collect();
        let mut has = |sum: &CpuSum| -> Vec<u32> {
            let mut cpus = sum.numbers.clone();
            for product in &sum.products {
                let mut shared = online.to_vec();
                for factor in product {
                    let members = group(*factor).unwrap_or_else(|| {
                        let name = factor.to_string();
                        if !missing.contains(&name) {
                            missing.push(name);
                        }
                        Vec::new()
                    });
                    shared.retain(|cpu| members.contains(cpu));
                }
                cpus.extend(shared);
            }
            cpus
        };
        let (with, without) = (has(&self.with), has(&self.without));
        let mut cpus: Vec<u32> =
            with.into_iter().filter(|cpu| online.contains(cpu) && !without.contains(cpu)).collect();
        cpus.sort_unstable();
        cpus.dedup();
        ChosenCpus { cpus, missing }
    }
}

impl FromStr for CpuChoice {
    type Err = CpuListError;

    /// Reads numbers, ranges and names with commas between them, in any order, with or without
    /// spaces; `!` before one takes it away again.
    fn from_str(text: &str) -> Result<Self, CpuListError> {
        if text.trim().is_empty() {
            return Err(CpuListError::Empty);
        }
        let (mut with, mut without) = (Reader::new(), Reader::new());
        for part in text.split(',').map(str::trim) {
            match part.strip_prefix('!') {
                Some(part) => without.read(part.trim())?,
                None => with.read(part)?,
            }
        }
        let (mut with, without) = (with.finish(), without.finish());
        if with == CpuSum::default() {
            with = Self::all().with;
        }
        if with.is_within(&without) {
            Err(CpuListError::NothingLeft)
        } else {
            Ok(Self { with, without })
        }
    }
}

/// Collects one side of a choice.
struct Reader {
    /// A flag per CPU, so that no list, however often it repeats itself, takes more memory.
    chosen: Vec<bool>,
    products: Vec<Vec<CpuGroup>>,
}

impl Reader {
    fn new() -> Self {
        Self { chosen: vec![false; HIGHEST_CPU as usize + 1], products: Vec::new() }
    }

    fn read(&mut self, part: &str) -> Result<(), CpuListError> {
        if part.starts_with(|c: char| c.is_ascii_digit()) && !part.contains('&') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first.trim(), part)?, number(last.trim(), part)?),
                None => {
                    let only = number(part, part)?;
                    (only, only)
                }
            };
            if last < first {
                return Err(CpuListError::Backwards(first, last));
            }
            self.chosen[first as usize..=last as usize].fill(true);
            return Ok(());
        }
        let mut product = Vec::new();
        for name in part.split('&').map(str::trim) {
            let group = named(name)?;
            if !product.contains(&group) {
                if product.len() == MOST_NAMES {
                    return Err(CpuListError::TooManyNames);
                }
                product.push(group);
            }
        }
        if !self.products.contains(&product) {
            if self.products.len() == MOST_NAMES {
                return Err(CpuListError::TooManyNames);
            }
            self.products.push(product);
        }
        Ok(())
    }

    fn finish(self) -> CpuSum {
        let numbered = (0..).zip(self.chosen);
        let numbers = numbered.filter_map(|(cpu, chosen)| chosen.then_some(cpu)).collect();
        CpuSum { numbers, products: self.products }
    }
}

/// One name.
fn named(name: &str) -> Result<CpuGroup, CpuListError> {
    let plain = [
        CpuGroup::All,
        CpuGroup::Performance,
        CpuGroup::Efficiency,
        CpuGroup::Isolated,
        CpuGroup::SmtFirst,
    ];
    if let Some(group) = plain.into_iter().find(|group| group.to_string() == name) {
        return Ok(group);
    }
    for (prefix, group) in [
        ("node-", CpuGroup::Node as fn(u32) -> CpuGroup),
        ("llc-", CpuGroup::Llc),
        ("near-gpu-", CpuGroup::NearGpu),
    ] {
        if let Some(digits) = name.strip_prefix(prefix) {
            return number(digits, name).map(group);
        }
    }
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(CpuListError::NumberInProduct(shortened(name)));
    }
    Err(CpuListError::Malformed(shortened(name)))
}

/// One number of `part`, at most [`HIGHEST_CPU`].
fn number(digits: &str, part: &str) -> Result<u32, CpuListError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(CpuListError::Malformed(shortened(part)));
    }
    match digits.parse() {
        Ok(cpu) if cpu <= HIGHEST_CPU => Ok(cpu),
        _ => Err(CpuListError::TooHigh(shortened(digits))),
    }
}

/// So much of a text as a message can bear.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

impl fmt::Display for CpuChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = Self::all().with;
        let with = if self.with == all && self.without != CpuSum::default() {
            Vec::new()
        } else {
            self.with.words()
        };
        let without = self.without.words().into_iter().map(|word| format!("!{word}"));
        let words: Vec<String> = with.into_iter().chain(without).collect();
        f.write_str(&words.join(","))
    }
}

/// Ascending numbers as sysfs writes them.
fn ranges(numbers: &[u32]) -> impl Iterator<Item = String> {
    let runs = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    runs.filter_map(|run| match run {
        [only] => Some(only.to_string()),
        [first, .., last] => Some(format!("{first}-{last}")),
        [] => None,
    })
}

impl CpuSum {
    /// Whether the other has all of it on every host.
    fn is_within(&self, other: &Self) -> bool {
        let holds = |product: &Vec<CpuGroup>| {
            let includes = |wider: &Vec<CpuGroup>| wider.iter().all(|g| product.contains(g));
            other.products.iter().any(includes)
        };
        let all = other.products.iter().any(|product| *product == [CpuGroup::All]);
        all || (self.numbers.iter().all(|cpu| other.numbers.contains(cpu))
            && self.products.iter().all(holds))
    }

    fn words(&self) -> Vec<String> {
        let runs = ranges(&self.numbers);
        let products = self.products.iter().map(|product| {
            let names: Vec<String> = product.iter().map(ToString::to_string).collect();
            names.join("&")
        });
        runs.chain(products).collect()
    }
}

impl fmt::Display for CpuGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Performance => f.write_str("performance"),
            Self::Efficiency => f.write_str("efficiency"),
            Self::Isolated => f.write_str("isolated"),
            Self::SmtFirst => f.write_str("smt-first"),
            Self::Node(n) => write!(f, "node-{n}"),
            Self::Llc(n) => write!(f, "llc-{n}"),
            Self::NearGpu(n) => write!(f, "near-gpu-{n}"),
        }
    }
}

#[cfg(test)]
mod tests;
