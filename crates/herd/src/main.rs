//! The door: flags, printing, progress, exit codes.

fn main() {}
