//! Stands where a program's generated code will: the warm-up compiles and links it once, which
//! proves that the toolchain can.

fn main() {}
