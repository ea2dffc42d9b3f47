//! Keeps `docs/metrics.md` equal to the catalogue.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::PREFIX;
use super::catalogue::{ALL, WAIT_BOUNDS_NS};

const HEAD: &str = "# Metrics

`downbeatd` serves these on `http://127.0.0.1:9810/metrics` (`--listen`) in OpenMetrics 1.0. This
page is made from the code: `UPDATE=1 cargo test -p downbeatd --lib metrics` writes it anew.

- Base units everywhere: seconds, bytes, watts, degrees Celsius, ratios from 0 to 1.
- Absent is absent, not zero: what is not measured has no series.
- No label holds a pid. Series grow with classes (and for each with at most 32 culprits
  by name), CPUs, GPUs and workers, and with nothing else.
- Counters start at zero with the agent, but for CPU time and pressure, which the kernel counts
  since boot.
- Memory and disks of the host belong to node_exporter; here is only what explains late frames:
  where each CPU's time went, interrupts and pressure.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n");
    for family in ALL {
        let kind = family.kind.word();
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let name = family.query_name(PREFIX);
        writeln!(page, "| `{name}` | {kind} | {} | {} |", labels.join(" "), family.help).unwrap();
    }
    let bounds: Vec<String> =
        WAIT_BOUNDS_NS.iter().map(|ns| format!("{}", *ns as f64 / 1e9)).collect();
    write!(
        page,
        "\nBuckets of the histograms, in seconds: {}, +Inf. Each is a power of two in nanoseconds, and a \
         time is counted below a bound only when it surely was.\n",
        bounds.join(", ")
    )
    .unwrap();
    page
}

#[test]
fn the_page_in_docs_is_the_catalogue() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, page, "docs/metrics.md is stale: run this test with UPDATE=1");
}
