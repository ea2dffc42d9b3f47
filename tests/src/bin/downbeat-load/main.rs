//! L.
fn main() {}
