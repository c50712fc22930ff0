//! A new migration alone must compile this crate anew: they are embedded, and the compiler sees only the files it has seen.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
