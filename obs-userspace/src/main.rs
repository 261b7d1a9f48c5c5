//! The command `obs`.
fn main() {}
